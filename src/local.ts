// What runs the engine where it is asked: `#load` of package.json. In a browser remote/load.ts stands for it.
export { estimate } from './estimate.ts';
export { loadModel } from './load_model.ts';
