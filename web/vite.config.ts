import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  resolve: {
    // Codecs of Zarr, 1.4 MB that NiiVue could load and this page never does.
    alias: [{ find: /^numcodecs\/.+$/, replacement: fileURLToPath(new URL("src/no-codec.ts", import.meta.url)) }],
  },
  build: {
    outDir: "../src/api/static",
    emptyOutDir: true,
    license: { fileName: "licenses.md" },
    target: "es2023",
    cssTarget: ["chrome123", "firefox120", "safari17.5"], // know light-dark()
    assetsInlineLimit: 0, // the content security policy allows no data: scripts or styles
    chunkSizeWarningLimit: 4096, // the viewer is large, and loaded only with a result
  },
  server: { proxy: { "/api": { target: "http://127.0.0.1:8000", ws: true } } },
});
