// The hub in a browser, in a page and in a worker of it; bundled by hub_store.test.ts. `tryHub` runs in either.
import { openSource } from '../dist/gguf/source.js';
import { stores } from '../dist/hub/store_opfs.js';
import { listModels, loadModel, pullModel, removeModel } from '../dist/index.js';
import { storeContract } from './store_contract.js';

async function tryHub({ endpoint, elsewhere }) {
  await storeContract(await stores.open(), openSource);
  const options = { endpoint, retries: 0, timeoutMs: 5000, token: 'hf_secret' };
  const messages = [];
  const failing = (ref) => pullModel(ref, options).catch((error) => messages.push(`${error.code}: ${error.message}`));
  await failing('org/breaks');
  const partial = await listModels();
  const pulled = await pullModel('org/tiny', options);
  // On a page this runs in a worker of its own, which reads what the page has pulled.
  const model = await loadModel('org/tiny', { ...options, threads: 1 });
  const { name } = model.info;
  await model.dispose();
  const again = await pullModel('org/tiny', options);
  const address = await pullModel(`${elsewhere}/m-i2_s.gguf`, options);
  await failing('org/none');
  const loading = await loadModel('org/none', options).catch(({ name, code, status }) => `${name} ${code} ${status}`);
  const listed = await listModels();
  for (const { name: each } of listed) await removeModel(each);
  const left = await listModels();
  return { messages, loading, partial, pulled, name, again, address, listed, left };
}

if (globalThis.document === undefined) {
  globalThis.onmessage = async ({ data }) => {
    globalThis.postMessage(await tryHub(data).catch((error) => String(error.stack ?? error)));
  };
}

/** All three ways of writing: on the page's thread, there without `move`, and in a worker. */
export async function tryAll(hubs) {
  const page = await tryHub(hubs);
  delete FileSystemFileHandle.prototype.move;
  const copying = await tryHub(hubs);
  const worker = new Worker(import.meta.url, { type: 'module' });
  const inWorker = await new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = ({ message }) => reject(new Error(message));
    worker.postMessage(hubs);
  });
  return { page, copying, inWorker };
}
