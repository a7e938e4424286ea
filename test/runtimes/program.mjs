// What every runtime does with the package: the same texts, a stream, an abort, the end. Imports nothing, as a page, a worker and
// a process take it alike.

const PROMPT = 'Once upon a time';
const TOKENS = 100;
const ABORT_MS = 5000;

/**
 * @param {object} given
 * @param {typeof import('ternlm').loadModel} given.loadModel
 * @param given.model what loadModel takes: the demo model
 * @param {number} [given.threads] default: loadModel's own
 * @returns what was seen, plain as JSON. `streams`, `aborts` and `disposes` are 'ok', or say what went wrong.
 */
export async function exercise({ loadModel, model: input, threads }) {
  // Keys and values in F32: rounded to F16, sums that differ in their last bit may fall apart, and the specification's do.
  const model = await loadModel(input, { threads, kv: 'f32' });
  const { tier, warnings, threads: running } = model.info;
  const { tokens: greedy, problem } = await stream(model);
  const { tokens: sampled, timings } = await model.complete(PROMPT, { seed: 7, maxTokens: TOKENS });
  return {
    ...{ threads: running, tier, warnings: [...warnings], greedy, sampled, perSecond: timings.generatedPerSecond },
    streams: problem ?? 'ok',
    aborts: (await abort(model, greedy)) ?? 'ok',
    disposes: (await dispose(model)) ?? 'ok',
  };
}

/** Greedy tokens, read one by one as they come. */
async function stream(model) {
  const turns = countTurns();
  const seen = new Set();
  const tokens = [];
  let first;
  const generating = model.generate(PROMPT, { temperature: 0, maxTokens: TOKENS });
  let next = await generating.next();
  while (!next.done) {
    first ??= performance.now();
    seen.add(turns.now());
    tokens.push(next.value.id);
    next = await generating.next();
  }
  const ms = performance.now() - first;
  turns.close();
  const { generatedMs } = next.value.timings;
  return { tokens, problem: problem() };

  function problem() {
    if (String(tokens) !== String(next.value.tokens)) return 'the tokens that came are not those of the summary';
    if (seen.size < TOKENS / 4) return `${TOKENS} tokens came in ${seen.size} turns of the event loop`;
    // A clock that stands still while it computes (workerd) says 0 for both.
    if (ms < generatedMs / 2) return `the first token came ${ms} ms before the end, of ${generatedMs} ms`;
  }
}

async function abort(model, greedy) {
  const reason = new Error('enough');
  const aborting = new AbortController();
  let count = 0;
  let at;
  const onToken = () => {
    // Later, so that it comes while the next tokens are computed.
    if (++count === 10) {
      setTimeout(() => {
        at = performance.now();
        aborting.abort(reason);
      });
    }
  };
  try {
    const { tokens } = await model.complete(PROMPT, { signal: aborting.signal, ignoreEos: true, onToken });
    return `ended with ${tokens.length} tokens`;
  } catch (error) {
    if (error !== reason) return `rejected with ${error}, expected the signal's reason`;
    const ms = performance.now() - at;
    if (ms > ABORT_MS) return `took ${ms} ms to reject, expected at most ${ABORT_MS}`;
  }
  const { tokens } = await model.complete(PROMPT, { temperature: 0, maxTokens: 10 });
  if (String(tokens) !== String(greedy.slice(0, 10))) return `afterwards it writes ${tokens}`;
}

async function dispose(model) {
  await model.dispose();
  await model.dispose();
  try {
    await model.complete(PROMPT, { maxTokens: 1 });
    return 'a disposed model writes';
  } catch (error) {
    if (!/disposed/.test(error.message)) return `a disposed model rejects with ${error}`;
  }
}

/** Tells turns of the event loop apart, at the price of one message for each that is asked about. */
function countTurns() {
  const { port1, port2 } = new MessageChannel();
  let turn = 0;
  let asked = false;
  port1.onmessage = () => {
    turn++;
    asked = false;
  };
  return {
    now() {
      if (!asked) port2.postMessage(0);
      asked = true;
      return turn;
    },
    close: () => port1.close(),
  };
}
