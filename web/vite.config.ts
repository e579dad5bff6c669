import { createHash } from "node:crypto";
import { readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { defineConfig, type Plugin } from "vite";

const root = import.meta.dirname;
const outDir = join(root, "../src/abaci/server/web/static");

/** What the build is made of. tests/server/test_web_build.py reads the same files the same way. */
const sourcePaths = ["package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", "index.html", "dashboard.html", "src", "public"];

function filesBelow(path: string): string[] {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path).flatMap((name) => filesBelow(join(path, name)));
}

function sha256(data: string | Buffer): string {
  return createHash("sha256").update(data).digest("hex");
}

/** One hash over "hash  path" lines in the order of their paths. */
function hashOfFiles(files: string[], base: string): string {
  const names = files.map((file) => relative(base, file)).sort();
  return sha256(names.map((name) => `${sha256(readFileSync(join(base, name)))}  ${name}\n`).join(""));
}

/** Leaves a note of which sources the built files came from, so that a test can tell when they are out of date. */
function recordSources(): Plugin {
  return {
    name: "record-sources",
    apply: "build",
    closeBundle() {
      const built = filesBelow(outDir).filter((file) => !file.endsWith("manifest.json"));
      const sources = sourcePaths.flatMap((path) => filesBelow(join(root, path)));
      const manifest = { sources: hashOfFiles(sources, root), built: hashOfFiles(built, outDir) };
      writeFileSync(join(outDir, "manifest.json"), `${JSON.stringify(manifest, null, 2)}\n`);
    },
  };
}

export default defineConfig({
  root,
  base: "./", // relative addresses: the server may stand below a path of a reverse proxy
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir,
    emptyOutDir: true,
    target: ["chrome123", "edge123", "firefox121", "safari17.5"],
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    rollupOptions: { input: [join(root, "index.html"), join(root, "dashboard.html")] },
  },
  server: { proxy: Object.fromEntries(["/v1", "/metrics", "/usage", "/health"].map((path) => [path, "http://127.0.0.1:8000"])) },
  plugins: [recordSources()],
});
