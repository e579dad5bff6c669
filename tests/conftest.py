"""Makes the modules beside this file (`golden`-model and step-feeding support) importable from every test folder."""
