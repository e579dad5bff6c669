"""The HTTP server: every wire dialect over models it is handed. Knows no engine and loads nothing itself."""
