// Browsers, in a page or a worker of it.
import { type Host, MOST_THREADS, type ThreadReport, WASM32_BYTES } from './host.ts';
import { inlinedKernels } from './inlined.ts';
import { relaxed, relaxed_i16, simd } from './kernels.js';

/**
 * A thread, as src/backend/wasm/worker.ts is one elsewhere. As a text, which becomes the address of a Blob: that is the same in
 * a page, in what a bundler makes of this module, and in one of another origin or of none.
 */
const THREAD = `onmessage = ({ data: { module, memory, index } }) => {
  const abort = (message, file, line, column) => {
    throw new Error('assembly aborted at line ' + line + ', column ' + column);
  };
  const { exports } = new WebAssembly.Instance(module, { env: { memory, abort } });
  exports.enterThread(index);
  postMessage(-1);
  for (let run = 0; (run = exports.serve(index, run)) !== -1; ) if (index === 0) postMessage(run);
  postMessage('ended');
};`;

/**
 * After it a thread that was told to end has ended, which nobody tells. In Chromium 156 one whose starter is ended while it ends
 * itself stays for ever; 10 ms were enough on two loaded cores.
 */
const ENDING_MS = 100;

const HEADERS = 'Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp';

export const host: Host = {
  async openFile() {
    throw new Error('no file system here; open a URL, a Blob or bytes');
  },
  // Nothing can be told to V8 here that `revec` needs to be quicker.
  kernels: inlinedKernels({ simd, relaxed, relaxed_i16 }),
  defaultThreads: async () => Math.max(1, Math.min(MOST_THREADS, navigator.hardwareConcurrency)),
  whyOneThread() {
    if (typeof Worker !== 'function') return 'there are no web workers here';
    if (globalThis.crossOriginIsolated) return undefined;
    return `the page is not cross-origin isolated (served with ${HEADERS})`;
  },
  async startThread(start, { onReport, onError }) {
    const address = URL.createObjectURL(new Blob([THREAD], { type: 'text/javascript' }));
    const worker = new Worker(address);
    URL.revokeObjectURL(address);
    let onEnded = () => {};
    const ended = new Promise<void>((resolve) => {
      onEnded = resolve;
    });
    function terminate(): void {
      worker.terminate();
      onEnded();
    }
    worker.onmessage = ({ data }: MessageEvent<ThreadReport | 'ended'>) => {
      if (data !== 'ended') onReport(data);
      else {
        worker.terminate();
        setTimeout(onEnded, ENDING_MS);
      }
    };
    worker.onerror = (event) => onError(new Error(event.message));
    worker.postMessage(start);
    return { keep: () => {}, terminate, ended };
  },
  turns() {
    const { port1, port2 } = new MessageChannel();
    const acts: (() => void)[] = [];
    port1.onmessage = () => acts.shift()?.();
    return {
      next(act) {
        acts.push(act);
        port2.postMessage(0);
      },
      async close() {
        while (acts.length > 0) await new Promise((resolve) => setTimeout(resolve, 1));
        port1.close();
      },
    };
  },
  memoryBytes: WASM32_BYTES,
  keptBytes: WASM32_BYTES, // no larger model can be computed with on the CPU
  hasFiles: false,
  noRevectorizer: () => 'flags of this engine cannot be set',
  withFlags: async (_flags, act) => act(),
};
