// The other end of serve.mjs.
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** The process of an engine, run by the Node at `execPath`. It ends when it is disconnected. */
export function launch(name, execPath) {
  const script = fileURLToPath(new URL(`${name}.mjs`, import.meta.url));
  return fork(script, { execPath, stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
}

/** One message to an engine's process and its answer. */
export function ask(child, message) {
  return new Promise((resolve, reject) => {
    const ended = (code) => reject(new Error(`the process of an engine ended with code ${code}`));
    child.once('exit', ended);
    child.once('message', (answer) => {
      child.off('exit', ended);
      if (answer.error === undefined) resolve(answer);
      else reject(new Error(answer.error));
    });
    child.send(message);
  });
}
