// The packages as they are published: packed, and served by a registry of this machine.
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export const root = fileURLToPath(new URL('../..', import.meta.url));

/** Runs npm in `cwd`. @returns {Promise<{ stdout: string, stderr: string }>} */
export const npm = (args, { cwd = root, env = {} } = {}) =>
  promisify(execFile)('npm', args, { cwd, env: { ...process.env, ...env }, maxBuffer: 1 << 26 });

/**
 * Packs a package of this repository, as it is built, into `folder`.
 *
 * @param {string} folder
 * @param {string} [source] the package's folder
 * @returns {Promise<{ name: string, version: string, tarball: string, files: readonly string[], unpackedBytes: number,
 *   manifest: Record<string, unknown> }>}
 */
export async function pack(folder, source = root) {
  // Scripts would build again.
  const { stdout } = await npm(['pack', source, '--ignore-scripts', '--json', '--pack-destination', folder]);
  const [{ name, version, filename, integrity, shasum, files, unpackedSize }] = JSON.parse(stdout);
  const manifest = JSON.parse(await readFile(join(source, 'package.json'), 'utf8'));
  return {
    ...{ name, version, tarball: join(folder, filename), unpackedBytes: unpackedSize },
    files: files.map((file) => file.path),
    manifest: { ...manifest, dist: { integrity, shasum } },
  };
}

/**
 * A registry of npm's protocol that has the packed packages, and sends who asks for others to the registry that npm is set up
 * with.
 *
 * @param {readonly Awaited<ReturnType<typeof pack>>[]} packages
 * @returns {Promise<{ url: string, close(): void }>}
 */
export async function startRegistry(packages) {
  const upstream = (await npm(['config', 'get', 'registry'])).stdout.trim().replace(/\/?$/, '/');
  const server = createServer(async (request, response) => {
    const path = decodeURIComponent(new URL(request.url, url).pathname).slice(1);
    const found = packages.find(({ name, tarball }) => path === name || path === tarballPath(name, tarball));
    if (found === undefined) {
      response.writeHead(307, { location: new URL(request.url.slice(1), upstream).href }).end();
    } else if (path === found.name) {
      const { name, version, tarball, manifest } = found;
      const dist = { ...manifest.dist, tarball: `${url}${tarballPath(name, tarball)}` };
      const versions = { [version]: { ...manifest, _id: `${name}@${version}`, dist } };
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ _id: name, name, 'dist-tags': { latest: version }, versions }));
    } else {
      response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(await readFile(found.tarball));
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${server.address().port}/`;
  return {
    url,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

const tarballPath = (name, tarball) => `${name}/-/${tarball.slice(tarball.lastIndexOf('/') + 1)}`;
