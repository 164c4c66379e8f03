// One self-contained ES module (and style sheet) per component, written into the Python package. Built files are never committed.
import { defineConfig } from 'vite'

export default defineConfig(({ mode }) => ({
  define: { 'process.env.NODE_ENV': '"production"' },
  build: {
    outDir: 'src/scanloom_components/assets',
    emptyOutDir: false, // build.py empties it: two builds write into it
    cssCodeSplit: false,
    lib: {
      entry: `javascript/${mode}.js`,
      formats: ['es'],
      fileName: () => `${mode}.js`,
      cssFileName: mode,
    },
    rollupOptions: { output: { codeSplitting: false } },
  },
}))
