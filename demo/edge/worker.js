// Text from the demo model, as it is written: `GET /?prompt=Once+upon+a+time&max=100&seed=7`, or a POST of
// {"prompt": "Once upon a time", "max": 100, "seed": 7}, of which only the prompt has to be there.
import { loadModel } from 'ternlm';
import tales from 'ternlm/demo/tales.gguf';

// Once, while the worker starts; all requests share it, up to four compute at once and further ones wait.
const model = await loadModel(tales);

const BODY_BYTES = 16_384;

export default {
  async fetch(request) {
    if (request.method !== 'GET' && request.method !== 'POST') return refusal(405, 'expected GET or POST');
    let tokens;
    try {
      const { prompt, max = 100, seed } = await (request.method === 'GET' ? query(request) : body(request));
      if (typeof prompt !== 'string' || prompt === '') throw new TypeError('prompt: missing, expected a text');
      // Options out of range and prompts beyond the context are refused here, before there is an answer.
      tokens = model.generate(prompt, { maxTokens: max, seed, signal: request.signal });
    } catch (error) {
      return refusal(400, error.message);
    }
    // A stream that the client leaves ends the generator, and that the computing.
    return new Response(ReadableStream.from(texts(tokens)), {
      headers: { 'content-type': 'text/plain; charset=utf-8' },
    });
  },
};

const refusal = (status, error) => Response.json({ error }, { status });

async function* texts(tokens) {
  const encoder = new TextEncoder();
  for await (const { text } of tokens) yield encoder.encode(text);
}

function query({ url }) {
  const { searchParams } = new URL(url);
  const number = (name) => (searchParams.has(name) ? Number(searchParams.get(name)) : undefined);
  return { prompt: searchParams.get('prompt'), max: number('max'), seed: number('seed') };
}

async function body(request) {
  const decoder = new TextDecoder();
  let [json, bytes] = ['', 0];
  for await (const chunk of request.body ?? []) {
    bytes += chunk.length;
    if (bytes > BODY_BYTES) throw new RangeError(`body: more than ${BODY_BYTES} bytes`);
    json += decoder.decode(chunk, { stream: true });
  }
  return JSON.parse(json) ?? {};
}
