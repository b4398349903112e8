/** The patient store: passing faults are waited out, others are not, and a listing goes on where it broke. */
import { describe, expect, test } from '@jest/globals';
import { PatientStore } from '../../core/archive/patient.ts';
import type { ObjectInfo, ObjectStore } from '../../core/archive/store.ts';
import { integrityError, transientError } from '../../core/errors/error.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { never, withStore } from '../made/archive.ts';

const patience = { signal: never, logger: silentLogger(), deadlineMs: 10_000, minDelayMs: 1, maxDelayMs: 2 };
const passing = () => transientError('QZ4999', 'It is away.', '');

/** The store, but a listing throws before every key whose number `breaks`. */
function breaking(store: ObjectStore, breaks: (count: number) => Error | null): ObjectStore {
  let count = 0;
  return new Proxy(store, {
    get(target, name) {
      if (name !== 'list') return Reflect.get(target, name).bind?.(target) ?? Reflect.get(target, name);
      return async function* (prefix: string, options: object): AsyncIterable<ObjectInfo> {
        for await (const info of target.list(prefix, options)) {
          count += 1;
          const error = breaks(count);
          if (error !== null) throw error;
          yield info;
        }
      };
    },
  });
}

async function keys(store: ObjectStore, options: { after?: string } = {}): Promise<string[]> {
  const found = [];
  for await (const { key } of store.list('a/', options)) found.push(key);
  return found;
}

describe('patient store', () => {
  test('a listing that breaks again and again gives every key once, in order, from where it was asked to', () =>
    withStore(async (store) => {
      const all = Array.from({ length: 30 }, (_, n) => `a/${String(n).padStart(3, '0')}`);
      for (const key of all) await store.putIfAbsent(key, []);
      const broken = () => breaking(store, (count) => (count % 3 === 1 || count % 7 === 2 ? passing() : null));
      expect(await keys(new PatientStore(broken(), patience))).toEqual(all);
      expect(await keys(new PatientStore(broken(), patience), { after: 'a/010' })).toEqual(all.slice(11));
      await expect(keys(broken())).rejects.toMatchObject({ code: 'QZ4999' });
    }));

  test('damage is said at once; what never passes is said at the deadline', () =>
    withStore(async (store) => {
      await store.putIfAbsent('a/1', []);
      const damaged = breaking(store, () => integrityError('QZ3999', 'It is damaged.', ''));
      await expect(keys(new PatientStore(damaged, patience))).rejects.toMatchObject({ code: 'QZ3999' });
      const away = breaking(store, passing);
      await expect(keys(new PatientStore(away, { ...patience, deadlineMs: 50 }))).rejects.toMatchObject({
        code: 'QZ4999',
      });
    }));
});
