import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

// What this machine has to run the tests on. A driver is chosen by variables of the environment, which it reads as it is loaded.

/** SwiftShader as Debian's package chromium-common has it: its driver alone is enough, no browser is started. */
const SWIFTSHADER = '/usr/lib/chromium/vk_swiftshader_icd.json';

export const swiftshader: Readonly<Record<string, string>> | undefined = existsSync(SWIFTSHADER)
  ? { VK_DRIVER_FILES: SWIFTSHADER, VK_ICD_FILENAMES: SWIFTSHADER }
  : undefined;

const PROBE = `import { create, globals } from 'webgpu';
  Object.assign(globalThis, globals);
  const adapter = await create([]).requestAdapter();
  const { vendor, architecture, description } = adapter?.info ?? {};
  console.log(adapter === null ? '' : [vendor, architecture, description].filter(Boolean).join(', '));`;

/** The adapter that Dawn takes with these variables, by name; nothing where there is none. */
export function adapterWith(env: Readonly<Record<string, string>> = {}): string | undefined {
  const options = { cwd: import.meta.dirname, env: { ...process.env, ...env }, encoding: 'utf8' } as const;
  const { status, stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', PROBE], options);
  return status === 0 && stdout.trim() !== '' ? stdout.trim() : undefined;
}

function first(...paths: string[]): string | undefined {
  return paths.find((path) => existsSync(path));
}

const onPath = (name: string) => (process.env.PATH ?? '').split(':').map((folder) => join(folder, name));

/** As driver.sh installs it, or any other. */
export const deno: string | undefined = first(
  join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'ternlm/node_modules/.bin/deno'),
  ...onPath('deno'),
);

export const chromium: string | undefined = first(
  ...['chromium-headless-shell', 'chromium', 'google-chrome'].flatMap(onPath),
);
