// The engine on the page's own thread where the engine is at hand as a text alone: dist/ternlm.js would else hold it twice. It
// stands for ../local.ts there (build.mjs).
import type { EstimateOptions, MemoryEstimate } from '../estimate.ts';
import type { LoadModelOptions, Model, ModelInput } from '../load_model.ts';
import { remoteModel } from './client.ts';
import { engineSource } from './engine_source.js';
import { errorOf } from './protocol.ts';
import type * as server from './server.ts';

let imported: Promise<typeof server> | undefined;

function engineHere(): Promise<typeof server> {
  const text = `${engineSource};export const { estimate, plainError, serve } = engine;`;
  imported ??= import(URL.createObjectURL(new Blob([text], { type: 'text/javascript' })));
  return imported;
}

/** As loadModel of ../load_model.ts. Through the protocol, so that errors are of this module's classes. */
export async function loadModel(input: ModelInput, options: LoadModelOptions = {}): Promise<Model> {
  const { serve } = await engineHere();
  return remoteModel(
    ({ onAnswer }) => {
      const port: server.Port = { onmessage: null, postMessage: (answer) => queueMicrotask(() => onAnswer(answer)) };
      serve(port);
      const post = (data: unknown) => port.onmessage?.({ data } as MessageEvent);
      return { post: (question) => queueMicrotask(() => post(question)), end() {} };
    },
    input,
    options,
  );
}

/** As estimate of ../estimate.ts. */
export async function estimate(input: ModelInput, options?: EstimateOptions): Promise<MemoryEstimate> {
  const engine = await engineHere();
  try {
    return await engine.estimate(input, options);
  } catch (error) {
    throw errorOf(engine.plainError(error));
  }
}
