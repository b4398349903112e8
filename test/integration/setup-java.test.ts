/** The trust store that is made for a fetched Java, read by a real one. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { selfSignedCertificate } from '../../core/stream/certificate.ts';
import { ensureJava } from '../../scripts/setup/toolchains.ts';
import { trustStoreOf } from '../../scripts/setup/trust-store.ts';

let keytool = '';
let dir = '';
beforeAll(async () => {
  keytool = join(await ensureJava(() => {}), 'bin/keytool');
  dir = mkdtempSync(join(tmpdir(), 'qazyna-trust-'));
}, 300_000);
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function list(bytes: Buffer, password: string): string {
  const file = join(dir, 'store.jks');
  writeFileSync(file, bytes);
  const args = ['-J-Duser.language=en', '-list', '-keystore', file, '-storepass', password];
  return spawnSync(keytool, args, { encoding: 'utf8' }).stdout;
}

test('Java reads every authority of a file, whatever stands between them', () => {
  const pems = ['one', 'two', 'three'].map((name) => `# ${name}\n${selfSignedCertificate(name, 2).certPem}`);
  const { bytes, count } = trustStoreOf(pems.join('\n\n'), 'changeit');
  expect(count).toBe(3);
  const listed = list(bytes, 'changeit');
  expect(listed).toContain('Your keystore contains 3 entries');
  expect(listed.match(/trustedCertEntry/g)).toHaveLength(3);
  expect(list(bytes, 'another')).toContain('password was incorrect');
  expect(list(trustStoreOf('', 'changeit').bytes, 'changeit')).toContain('contains 0 entries');
}, 120_000);
