// loadModel on the page's own thread where the engine is at hand as a text alone: dist/ternlm.js would else hold it twice. It
// stands for ../load_model.ts there (build.mjs).
import type { EstimateOptions, MemoryEstimate } from '../estimate.ts';
import type { LoadModelOptions, Model, ModelInput } from '../load_model.ts';
import { remoteModel } from './client.ts';
import { engineSource } from './engine_source.js';
import { errorOf, plainError } from './protocol.ts';
import type { estimate as estimateThere, Port, serve } from './server.ts';

let engine: Promise<{ serve: typeof serve; estimate: typeof estimateThere }> | undefined;

function engineHere(): NonNullable<typeof engine> {
  const text = `${engineSource};export const { serve, estimate } = engine;`;
  engine ??= import(URL.createObjectURL(new Blob([text], { type: 'text/javascript' })));
  return engine as NonNullable<typeof engine>;
}

/** As estimate of ../estimate.ts, which it stands for, too. */
export async function estimate(input: ModelInput, options: EstimateOptions = {}): Promise<MemoryEstimate> {
  const { estimate } = await engineHere();
  return estimate(input, options).catch((error: unknown) => {
    throw options.signal?.aborted ? error : errorOf(plainError(error));
  });
}

/** As loadModel of ../load_model.ts. Through the protocol, so that errors are of this module's classes. */
export async function loadModel(input: ModelInput, options: LoadModelOptions = {}): Promise<Model> {
  const { serve } = await engineHere();
  return remoteModel(
    ({ onAnswer }) => {
      const port: Port = { onmessage: null, postMessage: (answer) => queueMicrotask(() => onAnswer(answer)) };
      serve(port);
      const post = (data: unknown) => port.onmessage?.({ data } as MessageEvent);
      return { post: (question) => queueMicrotask(() => post(question)), end() {} };
    },
    input,
    options,
  );
}
