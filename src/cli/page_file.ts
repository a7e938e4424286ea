import { randomBytes } from 'node:crypto';
import { rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { UsageError } from './arguments.ts';
import { bytes } from './format.ts';
import { printable, say } from './terminal.ts';

/** @throws UsageError for a name that is not a page's, so that no model is lost where the name of the page was forgotten */
export function checkPageName(flag: string, out: string): void {
  if (/\.html?$/i.test(out)) return;
  throw new UsageError(`${flag}: expected a name that ends in .html, got ${JSON.stringify(out)}`);
}

/** Writes beside the place and moves there when all is well; else nothing is left. */
export async function writePage(out: string, html: string): Promise<void> {
  const temporary = join(dirname(out), `.${basename(out)}.${randomBytes(4).toString('hex')}.part`);
  try {
    await writeFile(temporary, html, { flag: 'wx' });
    await rename(temporary, out);
  } catch (error) {
    await rm(temporary, { force: true });
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new UsageError(`${out}: no such folder: ${dirname(out)}`);
    }
    throw Object.assign(error as Error, { path: out });
  }
  say(`${printable(out)}: ${bytes(Buffer.byteLength(html))}`);
}
