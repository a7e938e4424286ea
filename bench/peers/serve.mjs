/**
 * An engine in a process of its own, which computes only when told to. Messages in: first { model, threads, contextSize },
 * then { test: 'prompt' | 'decode', ids, tokens }; out: { label }, then { perSecond, ...whatever the engine adds }.
 * @param open (first message) => { label, prompt(ids), decode(ids, tokens) }, both tokens a second
 */
export function serve(open) {
  let engine;
  process.on('message', async (message) => {
    try {
      if (engine === undefined) {
        engine = await open(message);
        process.send({ label: engine.label });
      } else {
        const { test, ids, tokens } = message;
        process.send({ perSecond: await engine[test](ids, tokens) });
      }
    } catch (error) {
      process.send({ error: String(error?.stack ?? error) });
    }
  });
  process.on('disconnect', () => process.exit());
}
