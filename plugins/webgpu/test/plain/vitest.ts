import { deepStrictEqual, match, ok, rejects, strictEqual, throws } from 'node:assert/strict';
import { after, before, describe as suite, it as test } from 'node:test';

// What this package's tests use of vitest, over node:test. Whatever else they come to ask for is not here: it fails.

type Body = (...row: unknown[]) => unknown;
type Define = (name: string, body: () => unknown) => unknown;

/** Of a table's row: `%s` and `%i` are its next value, `$key` one of its fields, `%#` its index. */
function titleOf(title: string, row: readonly unknown[], index: number): string {
  const values = row.values();
  return title.replace(/%#|%[si]|\$(\w+)/g, (found, key: string | undefined) =>
    String(key !== undefined ? Reflect.get(Object(row[0]), key) : found === '%#' ? index : values.next().value),
  );
}

const each = (define: Define) => (table: readonly unknown[]) => (title: string, body: Body) => {
  for (const [i, entry] of table.entries()) {
    const row = Array.isArray(entry) ? entry : [entry];
    define(titleOf(title, row, i), () => body(...row));
  }
};

// node:test gives bodies arguments of its own.
const defineSuite: Define = (name, body) => void suite(name, () => void body());
const defineTest: Define = (name, body) => void test(name, async () => void (await body()));
const skip: Define = (name) => void test.skip(name);

export const describe = Object.assign(defineSuite, { each: each(defineSuite) });
export const it = Object.assign(defineTest, { each: each(defineTest), skip });
export const beforeAll = (body: () => unknown): void => before(async () => void (await body()));
export const afterAll = (body: () => unknown): void => after(async () => void (await body()));

type Class = new (...args: never[]) => object;
type Thrown = string | RegExp | Error | Class;

const thrown = (expected: Thrown = Error) =>
  typeof expected === 'string' ? (error: Error) => error.message.includes(expected) : expected;

export function expect(actual: unknown, what?: string) {
  const told = (check: () => void): void => {
    try {
      check();
    } catch (error) {
      throw what === undefined ? error : new Error(`${what}: ${(error as Error).message}`, { cause: error });
    }
  };
  const compared = (sign: string, holds: (a: number, b: number) => boolean) => (expected: number) =>
    told(() => ok(holds(actual as number, expected), `got ${actual}, expected ${sign} ${expected}`));
  return {
    toBe: (expected: unknown) => told(() => strictEqual(actual, expected)),
    toEqual: (expected: unknown) => told(() => deepStrictEqual(actual, expected)),
    toMatch: (expected: RegExp) => told(() => match(actual as string, expected)),
    toThrow: (expected?: Thrown) => told(() => throws(actual as () => unknown, thrown(expected))),
    toBeGreaterThan: compared('>', (a, b) => a > b),
    toBeGreaterThanOrEqual: compared('>=', (a, b) => a >= b),
    toBeLessThan: compared('<', (a, b) => a < b),
    toBeLessThanOrEqual: compared('<=', (a, b) => a <= b),
    rejects: {
      toThrow: (expected?: Thrown) => rejects(actual as Promise<unknown>, thrown(expected)),
      toMatchObject: (expected: object) => rejects(actual as Promise<unknown>, expected),
    },
    resolves: {
      toBeInstanceOf: async (expected: Class) => ok((await actual) instanceof expected, `of ${expected.name}`),
    },
  };
}
