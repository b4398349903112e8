/** Key files: read where secrets are, refused when they cannot be keys, and never shown. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { KeyRing, makeKeyFile, readKey } from '../../core/archive/keys.ts';
import { openArchive } from '../../core/archive/open.ts';
import { writeKeyFile } from '../made/sealed.ts';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qazyna-keys-'));
});
afterAll(async () => {
  await rm(dir, { recursive: true, force: true });
});

const none = { environment: {} };

describe('key files', () => {
  test('under systemd the credential of the same name is read, unless it is left out', async () => {
    const credentials = join(dir, 'credentials');
    await mkdir(credentials);
    const named = await writeKeyFile(join(dir, '2026-11'));
    const environment = { CREDENTIALS_DIRECTORY: credentials };
    const own = (await readKey(named, none)).id;
    expect((await readKey(named, { environment })).id).toBe(own);
    const credential = await writeKeyFile(join(credentials, '2026-11'));
    const { id, file } = await readKey(named, { environment });
    expect([id === own, file]).toEqual([false, credential]);
    await writeFile(credential, '\n');
    expect((await readKey(named, { environment })).id).toBe(own);
  });

  test('what cannot be a key is refused at once, also a pipe; what everybody may read is told', async () => {
    const unusable = { kind: 'configuration', code: 'QZ2428' };
    const pipe = join(dir, 'pipe');
    execFileSync('mkfifo', [pipe]);
    for (const file of [pipe, dir, join(dir, 'gone')])
      await expect(readKey(file, none)).rejects.toMatchObject(unusable);
    const file = await writeKeyFile(join(dir, 'open'));
    await chmod(file, 0o644);
    const said: string[] = [];
    await readKey(file, { ...none, warn: (sentence) => said.push(sentence) });
    expect(said).toEqual([`the key file ${file} may be read by everybody on this host; chmod 600 it`]);
  });

  test('no key shows when what holds it is looked at, and its id tells nothing but itself', async () => {
    const bytes = randomBytes(32);
    const file = join(dir, 'secret');
    await writeFile(file, bytes, { mode: 0o600 });
    const keys = { keyFile: file, oldKeyFiles: [file] };
    const { store, identity } = await openArchive(`file://${dir}/archive`, { create: true, keys, ...none });
    const ring = await KeyRing.read(keys, none);
    const shown = [ring, ring.newest, store, identity].map((one) => inspect(one, { depth: 9, showHidden: true }));
    shown.push(JSON.stringify([ring, ring.newest, identity]));
    for (const secret of [bytes, store.chunkKey ?? bytes]) {
      const spaced = secret.toString('hex').match(/../g)?.slice(0, 6).join(' ') ?? '';
      const forms = [secret.toString('hex'), secret.toString('base64'), spaced];
      for (const form of forms) for (const text of shown) expect(text).not.toContain(form.slice(0, 17));
    }
    expect(ring.newest.id).toMatch(/^[0-9a-f]{16}$/);
    expect(bytes.toString('hex')).not.toContain(ring.newest.id);
  });

  test('each new one is another', async () => {
    const made = await Promise.all(['a', 'b', 'c'].map((name) => makeKeyFile(join(dir, name))));
    expect(new Set(made.map(({ id }) => id)).size).toBe(3);
    for (const { id, file } of made) expect((await readKey(file, none)).id).toBe(id);
    await expect(makeKeyFile(join(dir, 'a'))).rejects.toMatchObject({ code: 'QZ2430' });
  });
});
