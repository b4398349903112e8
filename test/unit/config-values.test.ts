import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { configPath, loadConfig } from '../../core/config/config.ts';
import { folderOfFileUrl, parseListen } from '../../core/config/keys.ts';
import { editDistance, nearestWord } from '../../core/config/nearest.ts';
import { parseDurationMs, parseSizeBytes } from '../../core/config/quantities.ts';
import { mysqlEndpointOf, readSecret } from '../../core/config/secrets.ts';
import { good } from '../made/config.ts';

describe('quantities', () => {
  test.each([
    ['10ms', 10],
    ['30s', 30_000],
    ['1.5h', 5_400_000],
    ['30d', 2_592_000_000],
    ['500us', 0.5],
    ['6', null],
    ['', null],
    ['-1s', null],
    ['6H', null],
    ['6 hours', null],
    ['1e3s', null],
    ['9999999999999d', null],
  ])('duration %s', (text, expected) => {
    expect(parseDurationMs(text)).toBe(expected);
  });

  test.each([
    ['20GiB', 21_474_836_480],
    ['512KiB', 524_288],
    ['1.5MiB', 1_572_864],
    ['10MB', 10_000_000],
    ['7 B', 7],
    ['0.3B', null],
    ['20', null],
    ['20G', null],
    ['99999999TiB', null],
    ['constructor', null],
  ])('size %s', (text, expected) => {
    expect(parseSizeBytes(text)).toBe(expected);
  });

  test.each([
    ['127.0.0.1:9309', { host: '127.0.0.1', port: 9309 }],
    ['[::1]:0', { host: '::1', port: 0 }],
    ['localhost:80', { host: 'localhost', port: 80 }],
    ['9309', null],
    ['::1:9309', null],
    ['x:99999', null],
  ])('listen %s', (text, expected) => {
    expect(parseListen(text)).toEqual(expected);
  });

  test.each([
    ['file:///srv/a', '/srv/a'],
    ['file:///srv/a%20b', '/srv/a b'],
    ['file:///', null],
    ['file://host/srv', null],
    ['file:///srv?x=1', null],
    ['/srv', null],
    ['file:///a%00b', null],
    ['file:///a%2fb', null],
  ])('URL %s', (url, expected) => {
    expect(folderOfFileUrl(url)).toBe(expected);
  });
});

describe('the nearest word', () => {
  test('is found for slips and not for other words', () => {
    expect(editDistance('hots', 'host')).toBe(1);
    expect(editDistance('', 'abc')).toBe(3);
    expect(nearestWord('snapshot', ['source', 'snapshots', 'http'])).toBe('snapshots');
    expect(nearestWord('restroe', ['restore', 'run'])).toBe('restore');
    expect(nearestWord('frobnicate', ['restore', 'run'])).toBeNull();
    expect(nearestWord('x', ['tls'])).toBeNull();
  });
});

describe('files', () => {
  let folder = '';
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'qazyna-config-'));
  });
  afterAll(async () => {
    await rm(folder, { recursive: true });
  });

  test('the configuration comes from the flag, else the environment, else /etc; never the working folder', () => {
    expect(configPath('/a.yaml', { QAZYNA_CONFIG: '/b.yaml' })).toBe('/a.yaml');
    expect(configPath(undefined, { QAZYNA_CONFIG: '/b.yaml' })).toBe('/b.yaml');
    expect(configPath(undefined, { QAZYNA_CONFIG: '' })).toBe('/etc/qazyna/config.yaml');
    expect(configPath(undefined, {})).toBe('/etc/qazyna/config.yaml');
  });

  test('a missing or unreadable configuration', async () => {
    await expect(loadConfig(join(folder, 'none.yaml'))).rejects.toMatchObject({ code: 'QZ2010', exitCode: 2 });
    await expect(loadConfig(folder)).rejects.toMatchObject({ code: 'QZ2011', exitCode: 2 });
    const path = join(folder, 'good.yaml');
    await writeFile(path, good);
    expect((await loadConfig(path)).file).toBe(path);
  });

  test('a secret loses its line end; one that all may read is told of', async () => {
    const path = join(folder, 'secret');
    await writeFile(path, 'pass word \n', { mode: 0o600 });
    const warnings: string[] = [];
    const options = { warn: (sentence: string) => warnings.push(sentence), environment: {} };
    expect(await readSecret(path, options)).toBe('pass word ');
    expect(warnings).toEqual([]);
    await chmod(path, 0o644);
    await readSecret(path, options);
    expect(warnings).toEqual([expect.stringContaining(path)]);
    expect(warnings.join()).not.toContain('pass word');
  });

  test('a systemd credential of the same name is preferred', async () => {
    const path = join(folder, 'elsewhere', 'mysql.password');
    await writeFile(join(folder, 'mysql.password'), 'from systemd\n');
    expect(await readSecret(path, { environment: { CREDENTIALS_DIRECTORY: folder } })).toBe('from systemd');
    await expect(readSecret(path, { environment: {} })).rejects.toMatchObject({ code: 'QZ2017' });
  });

  test('an empty credential is one that was not given', async () => {
    const path = join(folder, 'elsewhere.password');
    const credentials = await mkdtemp(join(folder, 'credentials-'));
    await writeFile(path, 'the file itself\n', { mode: 0o600 });
    await writeFile(join(credentials, 'elsewhere.password'), '\n');
    expect(await readSecret(path, { environment: { CREDENTIALS_DIRECTORY: credentials } })).toBe('the file itself');
  });

  test('an unreadable, empty or many-lined secret is refused without its text', async () => {
    const path = join(folder, 'bad');
    await expect(readSecret(folder, { environment: {} })).rejects.toMatchObject({ code: 'QZ2017', exitCode: 2 });
    for (const text of ['', '\n', 'one\ntwo\n', 'nul\0', 'two\n\n']) {
      await writeFile(path, text);
      await expect(readSecret(path, { environment: {} })).rejects.toMatchObject({
        code: 'QZ2018',
        message: `The secret file ${path} does not hold exactly one line of text.`,
      });
    }
    await writeFile(path, 'x'.repeat(70_000));
    await expect(readSecret(path, { environment: {} })).rejects.toMatchObject({ code: 'QZ2017' });
  });

  test('an endpoint carries the password just read, or none', async () => {
    const path = join(folder, 'password');
    await writeFile(path, 'p\n', { mode: 0o600 });
    const mysql = { host: 'h', port: 1, user: 'u', passwordFile: path, tls: { mode: 'required' as const } };
    expect(await mysqlEndpointOf(mysql, { environment: {} })).toMatchObject({ host: 'h', password: 'p' });
    expect(await mysqlEndpointOf({ ...mysql, passwordFile: null })).toMatchObject({ password: '' });
  });
});
