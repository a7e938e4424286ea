// loadModel in a browser: in a page the engine runs in a worker, so that the page stays at hand.
import type { EstimateOptions, MemoryEstimate } from '../estimate.ts';
import { checkedInput, checkOptions } from '../hub/input.ts';
import { parseReference } from '../hub/reference.ts';
import type { LoadModelOptions, Model, ModelInput } from '../load_model.ts';
import type { Connection, Events } from './client.ts';
import type { Answer } from './protocol.ts';

/** As loadModel of ../load_model.ts; addresses may be relative to the page. */
export async function loadModel(input: ModelInput, options: LoadModelOptions = {}): Promise<Model> {
  checkOptions(options);
  const isPage = typeof document === 'object' && typeof Worker === 'function';
  const { backend, worker = isPage && backend === undefined } = options;
  const file = await resolved(input);
  if (!worker || !isPage) return (await import('../local.ts')).loadModel(file, options);
  if (backend !== undefined)
    throw new RangeError('worker: a backend computes where it was opened, expected no `backend`');
  const [{ remoteModel }, { engineSource }] = await Promise.all([import('./client.ts'), import('./engine_source.js')]);
  return remoteModel((events) => startWorker(`${engineSource};engine.serve(self);`, events), file, options);
}

/** As estimate of ../estimate.ts. */
export async function estimate(input: ModelInput, options?: EstimateOptions): Promise<MemoryEstimate> {
  const file = await resolved(input);
  return (await import('../local.ts')).estimate(file, options);
}

/** An address relative to the page, or to a worker's script, made a whole one, and of a Blob its Blob; the rest as it is. */
async function resolved(given: ModelInput): Promise<ModelInput> {
  const input = checkedInput(given);
  if ((typeof input !== 'string' && !(input instanceof URL)) || parseReference(String(input)) !== undefined)
    return input;
  const base = typeof document === 'object' ? document.baseURI : globalThis.location?.href;
  if (!URL.canParse(input, base)) return input; // which opening it tells
  const address = new URL(input, base);
  return address.protocol === 'blob:' ? (await fetch(address)).blob() : address;
}

function startWorker(source: string, { onAnswer, onDeath }: Events): Connection {
  const address = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
  const worker = new Worker(address, { name: 'ternlm' });
  const what = 'the worker that runs the model';
  worker.onmessage = ({ data }: MessageEvent<Answer>) => {
    URL.revokeObjectURL(address);
    onAnswer(data);
  };
  worker.onmessageerror = () => onDeath(new Error(`${what}: an answer cannot be read here, maybe for want of memory`));
  worker.onerror = ({ message }) => {
    // Nothing is told of a worker that does not start.
    const why = message || 'it did not start; a Content-Security-Policy has to allow it (worker-src blob:)';
    onDeath(new Error(`${what} failed: ${why}`));
  };
  return {
    post: (question, memory) => worker.postMessage(question, memory),
    end() {
      URL.revokeObjectURL(address);
      worker.terminate();
    },
  };
}
