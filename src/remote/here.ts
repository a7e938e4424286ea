// loadModel on the page's own thread where the engine is at hand as a text alone: dist/ternlm.js would else hold it twice. It
// stands for ../load_model.ts there (build.mjs).
import type { LoadModelOptions, Model, ModelInput } from '../load_model.ts';
import { remoteModel } from './client.ts';
import { engineSource } from './engine_source.js';
import type { Port, serve } from './server.ts';

let engine: Promise<{ serve: typeof serve }> | undefined;

/** As loadModel of ../load_model.ts. Through the protocol, so that errors are of this module's classes. */
export async function loadModel(input: ModelInput, options: LoadModelOptions = {}): Promise<Model> {
  const text = `${engineSource};export const { serve } = engine;`;
  engine ??= import(URL.createObjectURL(new Blob([text], { type: 'text/javascript' })));
  const { serve } = await engine;
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
