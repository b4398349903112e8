/** Logins: as real clients sent them, by every path, refused ones, and over TLS. */
import { publicEncrypt, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from '@jest/globals';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { connectMysql } from '../../core/mysql/connection.ts';
import { isScrambleOf, makeNonce } from '../../core/stream/auth.ts';
import { selfSignedCertificate } from '../../core/stream/certificate.ts';
import { parseLogin } from '../../core/stream/handshake.ts';
import { type StreamServer, type StreamServerOptions, startStreamServer } from '../../core/stream/server.ts';
import { loginPacket, nonceOf, StreamClient, scrambled } from '../made/stream-client.ts';

const logins: Record<string, { nonce: string; login: string }> = JSON.parse(
  readFileSync(join(import.meta.dirname, '../fixtures/stream/logins.json'), 'utf8'),
);
const credentials = { user: 'repl', password: 'recorded secret' };
const never = new AbortController().signal;

let server: StreamServer | null = null;

async function start(more: Partial<StreamServerOptions> = {}): Promise<StreamServer> {
  server = await startStreamServer({
    source: {
      serverVersion: '9.7.4',
      serverIds: new Set(),
      files: async () => [{ name: 'binlog.000001', gtidsBefore: new GtidSet(), gtidsAfter: new GtidSet() }],
      async *read() {},
    },
    credentials,
    logger: silentLogger(),
    identity: 'test',
    limits: { refusalDelayMs: 10 },
    ...more,
  });
  return server;
}

afterEach(() => server?.close());

describe('recorded logins', () => {
  test.each(Object.keys(logins))('%s: user, plugin and scramble are understood', (name) => {
    const { nonce, login } = logins[name] ?? { nonce: '', login: '' };
    const attempt = parseLogin(Buffer.from(login, 'hex'), Buffer.from(nonce, 'hex'));
    expect(attempt.user).toBe('repl');
    expect(attempt.plugin).toBe('caching_sha2_password');
    expect(isScrambleOf(attempt.answer, credentials.password, attempt.nonce)).toBe(true);
    expect(isScrambleOf(attempt.answer, 'another secret', attempt.nonce)).toBe(false);
  });

  test('every truncation of a login is refused as malformed, never a crash', () => {
    for (const { login, nonce } of Object.values(logins)) {
      const bytes = Buffer.from(login, 'hex');
      for (let end = 0; end < bytes.length; end++) {
        try {
          parseLogin(bytes.subarray(0, end), Buffer.from(nonce, 'hex'));
        } catch (error) {
          expect(error).toMatchObject({ code: 'QZ4701' });
        }
      }
    }
  });

  test('a nonce never holds a NUL or a dollar sign', () => {
    for (let index = 0; index < 500; index++) {
      const nonce = makeNonce();
      expect(nonce).toHaveLength(20);
      expect(nonce.some((byte) => byte === 0 || byte === 0x24 || byte > 0x7f)).toBe(false);
    }
  });
});

describe('paths of login', () => {
  test('fast path, without and with TLS', async () => {
    const { port } = await start();
    for (const tls of [false, true]) {
      const client = await StreamClient.login(port, 'repl', credentials.password, tls);
      const answer = await client.query('SELECT @@GLOBAL.SERVER_UUID');
      expect(answer[0]).toBe(1);
      client.close();
    }
  });

  test('another plugin is switched to ours, with a new nonce', async () => {
    const { port } = await start();
    const client = await StreamClient.open(port);
    const nonce = nonceOf(await client.read());
    client.send(loginPacket('repl', Buffer.alloc(20, 1), 'mysql_native_password'));
    const request = await client.read();
    expect(request[0]).toBe(0xfe);
    expect(request.toString('latin1', 1, 22)).toBe('caching_sha2_password');
    const fresh = request.subarray(23, 43);
    expect(fresh.equals(nonce)).toBe(false);
    client.send(scrambled(credentials.password, fresh));
    expect(await client.read()).toEqual(Buffer.from([1, 3]));
    expect((await client.read())[0]).toBe(0);
    client.close();
  });

  test('full path over TLS: the password itself', async () => {
    const { port } = await start({ fullAuthentication: true });
    for (const [password, first] of [
      [credentials.password, 0],
      ['wrong', 0xff],
    ] as const) {
      const client = await StreamClient.open(port);
      const nonce = nonceOf(await client.read());
      await client.startTls();
      client.send(loginPacket('repl', scrambled(password, nonce)));
      expect(await client.read()).toEqual(Buffer.from([1, 4]));
      client.send(Buffer.from(`${password}\0`));
      expect((await client.read())[0]).toBe(first);
      client.close();
    }
  });

  test('full path without TLS: encrypted by the key that was asked for', async () => {
    const { port } = await start({ fullAuthentication: true });
    for (const [password, first] of [
      [credentials.password, 0],
      ['wrong', 0xff],
    ] as const) {
      const client = await StreamClient.open(port);
      const nonce = nonceOf(await client.read());
      client.send(loginPacket('repl', scrambled(password, nonce)));
      expect(await client.read()).toEqual(Buffer.from([1, 4]));
      client.send(Buffer.from([2]));
      const key = (await client.read()).subarray(1).toString();
      const plain = Buffer.from(`${password}\0`).map((byte, index) => byte ^ (nonce[index % 20] ?? 0));
      client.send(publicEncrypt({ key, oaepHash: 'sha1' }, plain));
      expect((await client.read())[0]).toBe(first);
      client.close();
    }
  });

  test('a password in the clear without TLS is never taken', async () => {
    const { port } = await start({ fullAuthentication: true });
    const client = await StreamClient.open(port);
    await client.read();
    client.send(loginPacket('repl', Buffer.alloc(32)));
    await client.read();
    client.send(Buffer.from(`${credentials.password}\0`));
    await client.untilClosed();
  });

  test.each([
    ['a wrong password', 'repl', 'wrong'],
    ['an empty password', 'repl', ''],
    ['another user', 'root', credentials.password],
    ['no user', '', credentials.password],
  ])('%s is refused by 1045, and no log holds the secret', async (_what, user, password) => {
    const lines: string[] = [];
    const note = (...parts: unknown[]) => lines.push(JSON.stringify(parts));
    const logger = Object.assign(silentLogger(), { warn: note, error: note, info: note, log: note });
    const { port } = await start({ logger });
    await expect(StreamClient.login(port, user, password)).rejects.toThrow(/Access denied/);
    expect(lines.join('\n')).toContain('was not let in');
    expect(lines.join('\n')).not.toContain('secret');
  });

  test('without TLS where it is required: refused before the password is looked at', async () => {
    const { port } = await start({ requireTls: true });
    await expect(StreamClient.login(port, 'repl', credentials.password)).rejects.toThrow(/insecure transport/);
    const client = await StreamClient.login(port, 'repl', credentials.password, true);
    client.close();
  });

  test('our own connection library logs in by every TLS mode, the certificate verified by identity', async () => {
    const { port, certificatePem } = await start();
    expect(new X509Certificate(certificatePem ?? '').checkIP('127.0.0.1')).toBe('127.0.0.1');
    for (const mode of ['disabled', 'required'] as const) {
      const connection = await connectMysql({ host: '127.0.0.1', port, ...credentials, tls: { mode } }, never);
      expect(connection.encrypted).toBe(mode === 'required');
      expect(await connection.query('SELECT VERSION() AS version')).toEqual([{ version: '9.7.4' }]);
      expect(await connection.query('SELECT @@GLOBAL.binlog_checksum as checksum')).toEqual([{ checksum: 'CRC32' }]);
      await expect(connection.query('SELECT @@GLOBAL.rpl_semi_sync_source_enabled')).rejects.toMatchObject({
        details: { errno: 1193 },
      });
      await expect(connection.query('DROP DATABASE mysql')).rejects.toMatchObject({ details: { errno: 1235 } });
      await connection.close();
    }
  });

  test('what the caller answers is answered, as text and as a prepared statement', async () => {
    const asked: string[] = [];
    const { port } = await start({
      answer: (query) => {
        asked.push(query);
        return {
          columns: ['Log_name', 'File_size'],
          rows: [
            ['binlog.000001', 157],
            ['x', null],
          ],
        };
      },
    });
    const connection = await connectMysql({ host: '127.0.0.1', port, ...credentials }, never);
    const rows = await connection.query('SHOW BINARY LOGS');
    expect(rows).toEqual([
      { Log_name: 'binlog.000001', File_size: '157' },
      { Log_name: 'x', File_size: null },
    ]);
    await connection.close();
    const client = await StreamClient.login(port, 'repl', credentials.password);
    client.command(0x16, 'SELECT a FROM t WHERE b = ? AND c = ?');
    const prepared = await client.read();
    expect([prepared[0], prepared.readUInt16LE(7)]).toEqual([0, 2]);
    for (let packet = 0; packet < 3; packet++) await client.read();
    // statement id, no cursor, 1 iteration, second parameter NULL, types follow: both VAR_STRING
    const head = Buffer.from([0, 1, 0, 0, 0, 0b10, 1, 0xfd, 0, 0xfd, 0]);
    client.command(0x17, Buffer.concat([prepared.subarray(1, 5), head, Buffer.from([4]), Buffer.from("it's")]));
    expect(await client.read()).toEqual(Buffer.from([2]));
    for (let packet = 0; packet < 3; packet++) await client.read();
    const row = Buffer.concat([
      Buffer.from([0, 0, 13]),
      Buffer.from('binlog.000001'),
      Buffer.from([3]),
      Buffer.from('157'),
    ]);
    expect(await client.read()).toEqual(row);
    expect(await client.read()).toEqual(Buffer.concat([Buffer.from([0, 0b1000, 1]), Buffer.from('x')]));
    client.close();
    expect(asked).toEqual(['SHOW BINARY LOGS', "SELECT a FROM t WHERE b = 'it\\'s' AND c = NULL"]);
  });
});

test('a server keeps its UUID and server_id by its identity, and takes none of the history', async () => {
  const first = await start();
  const { serverUuid, serverId } = first;
  await first.close();
  const again = await start();
  expect([again.serverUuid, again.serverId]).toEqual([serverUuid, serverId]);
  await again.close();
  const other = await start({ identity: 'another' });
  expect(other.serverUuid).not.toBe(serverUuid);
  await other.close();
  const source = {
    serverVersion: '9.7.4',
    serverIds: new Set([serverId, serverId + 1]),
    files: async () => [],
    async *read() {},
  };
  expect((await start({ source })).serverId).toBe(serverId + 2);
});

test('a certificate that cannot be used is refused before anything listens', async () => {
  const { certPem } = selfSignedCertificate('one', 1);
  const { keyPem } = selfSignedCertificate('another', 1);
  await expect(start({ certificate: { certPem, keyPem } })).rejects.toMatchObject({ code: 'QZ2702' });
});
