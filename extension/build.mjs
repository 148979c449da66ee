// Bundles for where there is no JupyterLab around: the notebook's widgets, and the gateway's dashboard.
import { build } from 'esbuild';

const common = {
  bundle: true,
  minify: true,
  target: 'es2022',
  jsx: 'transform',
  define: { 'process.env.NODE_ENV': '"production"' },
  legalComments: 'linked',
  logLevel: 'warning'
};

await build({ ...common, entryPoints: ['src/widget.tsx'], format: 'esm', outfile: '../rios/widgets/static/widget.js' });
await build({
  ...common,
  entryPoints: ['src/dashboard.tsx', 'style/dashboard.css'],
  format: 'iife',
  entryNames: '[name]',
  outdir: '../rios/gateway/static'
});
await build({ ...common, entryPoints: ['style/widget.css'], outfile: '../rios/widgets/static/widget.css' });
