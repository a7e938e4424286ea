import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

// Who may import whom. A room is a folder or file right under src/; `backend/backend.ts` and `backend/wasm` are two rooms.

const src = fileURLToPath(new URL('../src', import.meta.url));

/** What each room may import, itself aside. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  cli: [
    'hub',
    'index.ts',
    'load_model.ts',
    'estimate.ts',
    'generate.ts',
    'evaluate.ts',
    'chat.ts',
    'convert',
    'safetensors',
    'gguf',
    'model',
    'tokenizer',
    'backend/backend.ts',
    'backend/wasm',
  ],
  'index.ts': [
    ...[
      'remote',
      'local.ts',
      'load_model.ts',
      'estimate.ts',
      'generate.ts',
      'evaluate.ts',
      'calibrate.ts',
      'chat.ts',
      'gguf',
      'hub',
      'model',
      'sampler.ts',
    ],
    'backend/backend.ts',
  ],
  'local.ts': ['load_model.ts', 'estimate.ts'],
  remote: ['local.ts', 'load_model.ts', 'estimate.ts', 'generate.ts', 'gguf', 'hub', 'model', 'backend/backend.ts'],
  'estimate.ts': ['load_model.ts', 'evaluate.ts', 'gguf', 'hub', 'model', 'backend/backend.ts', 'backend/wasm'],
  'load_model.ts': [
    ...[
      'placement.ts',
      'generate.ts',
      'evaluate.ts',
      'calibrate.ts',
      'engine',
      'chat.ts',
      'gguf',
      'hub',
      'model',
      'tokenizer',
    ],
    ...['backend/backend.ts', 'backend/wasm'],
  ],
  'placement.ts': ['host', 'evaluate.ts', 'engine', 'gguf', 'model', 'backend/backend.ts', 'backend/wasm'],
  'evaluate.ts': ['model', 'backend/backend.ts'],
  'calibrate.ts': ['evaluate.ts', 'model', 'backend/backend.ts'],
  'generate.ts': ['engine', 'tokenizer', 'sampler.ts'],
  engine: ['host', 'model', 'sampler.ts', 'backend/backend.ts'],
  model: ['gguf', 'sampler.ts', 'backend/backend.ts'],
  'backend/wasm': ['backend/backend.ts', 'host', 'reference', 'sampler.ts'],
  'chat.ts': ['chat_template.ts', 'tokenizer'],
  'chat_template.ts': [],
  reference: ['backend/backend.ts', 'sampler.ts'],
  'backend/backend.ts': [],
  convert: ['gguf', 'safetensors'],
  safetensors: [],
  gguf: ['host'],
  hub: ['gguf', 'host'],
  host: [],
  tokenizer: [],
  'sampler.ts': [],
};

/** Node's own modules may be imported here, and nowhere else: the rest runs in a browser. */
const NODE_ALLOWED = [
  /^cli\//,
  /^host\/(node|revectorize)\.ts$/,
  /^hub\/store_node\.ts$/,
  /^backend\/wasm\/worker\.ts$/,
];

const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter(
  (f) => /\.ts$/.test(f) && !f.endsWith('.d.ts'),
);
const roomOf = (file: string) => {
  const [first, second] = file.split('/');
  return first === 'backend' ? `${first}/${second}` : first;
};

/** Written by the build beside the declaration in src/. */
const isGenerated = (path: string) => path.endsWith('.wasm') || existsSync(join(src, path.replace(/\.js$/, '.d.ts')));

/** [importing file, imported path relative to src/, or bare specifier] */
const imports = files.flatMap((file) => {
  const text = readFileSync(join(src, file), 'utf8');
  const found = [...text.matchAll(/(?:^|\n)\s*(?:import|export)\b[^;'"]*?from\s*'([^']+)'|import\(\s*'([^']+)'\s*\)/g)];
  return found.map((m): [string, string] => {
    const to = m[1] ?? m[2];
    // What the package's `imports` choose by runtime stands for the room.
    if (to === '#host') return [file, 'host/host.ts'];
    if (to === '#load') return [file, 'remote/load.ts'];
    if (to === '#store') return [file, 'hub/store.ts'];
    return [file, to.startsWith('.') ? relative(src, join(src, dirname(file), to)) : to];
  });
});

const manifest = JSON.parse(readFileSync(join(src, '../package.json'), 'utf8')) as {
  dependencies: Record<string, string>;
  peerDependencies: Record<string, string>;
  peerDependenciesMeta: unknown;
};

describe('import rules', () => {
  it('sees the imports', () => {
    expect(imports.length).toBeGreaterThan(50);
    expect(imports.some(([, to]) => to === 'node:worker_threads')).toBe(true);
  });

  it('every room imports only what it may', () => {
    const breaches = imports.filter(([file, to]) => {
      if (to.startsWith('..')) return true; // out of src/
      if (!files.includes(to) && !isGenerated(to)) return false; // a package, checked below
      const [from, room] = [roomOf(file), roomOf(to)];
      return from !== room && !(MAY_IMPORT[from] ?? []).includes(room);
    });
    expect(breaches).toEqual([]);
  });

  it('every room is known', () => {
    expect(files.map(roomOf).filter((room) => !(room in MAY_IMPORT))).toEqual([]);
  });

  it('has no cycle between files', () => {
    const graph = new Map(files.map((file) => [file, imports.filter(([f]) => f === file).map(([, to]) => to)]));
    const done = new Set<string>();
    const visit = (file: string, path: readonly string[]): void => {
      if (path.includes(file)) throw new Error(`cycle: ${[...path.slice(path.indexOf(file)), file].join(' -> ')}`);
      if (done.has(file)) return;
      for (const to of graph.get(file) ?? []) visit(to, [...path, file]);
      done.add(file);
    };
    for (const file of files) visit(file, []);
  });

  it("uses Node's modules only where a browser never comes", () => {
    const breaches = imports.filter(
      ([file, to]) => to.startsWith('node:') && !NODE_ALLOWED.some((rule) => rule.test(file)),
    );
    expect(breaches).toEqual([]);
  });

  it('uses only packages that are dependencies', () => {
    const bare = imports
      .map(([, to]) => to)
      .filter((to) => !files.includes(to) && !to.startsWith('node:') && !isGenerated(to))
      .map((to) => /^(@[^/]+\/)?[^/]+/.exec(to)?.[0] ?? to);
    expect(bare.filter((to) => !(to in manifest.dependencies))).toEqual([]);
  });

  it('loads one package that need not be there, for the command line', () => {
    const unnamed = files.filter((file) => /\bimport\(\s*[^'\s]/.test(readFileSync(join(src, file), 'utf8')));
    expect(unnamed.filter((file) => file !== 'remote/here.ts')).toEqual(['cli/backend.ts']); // that one's is a text
    const text = readFileSync(join(src, 'cli/backend.ts'), 'utf8');
    const packages = [...text.matchAll(/import\((\w+)\)/g)].map(([, name]) => {
      return new RegExp(`const ${name}: string = '([^']+)'`).exec(text)?.[1];
    });
    expect(packages).toEqual(['@ternlm/webgpu']);
    expect(Object.keys(manifest.peerDependencies)).toEqual(packages);
    expect(manifest.peerDependenciesMeta).toEqual({ '@ternlm/webgpu': { optional: true } });
  });
});
