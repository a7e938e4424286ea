/** The demo model, where a module can be data: in workerd, and where a bundler has a loader for such files. */
declare const bytes: ArrayBuffer;
export default bytes;
