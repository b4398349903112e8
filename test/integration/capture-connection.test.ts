import { writeFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { authenticate, connectMysql, type MysqlEndpoint, type MysqlTls } from '../../core/mysql/connection.ts';
import { binlogDumpCommand } from '../../core/mysql/packets.ts';
import { binlogStatus } from '../../core/mysql/source-facts.ts';
import { selfSignedCertificate } from '../../core/stream/certificate.ts';
import { CaptureLab, Recording } from './capture-lab.ts';

const { signal } = new AbortController();
let lab: CaptureLab;
beforeAll(async () => {
  lab = await CaptureLab.start();
  // Each account for one test: the server remembers who has logged in, and then asks for less.
  for (const user of ['rsa', 'tls', 'sock'])
    await lab.sql(
      `CREATE USER ${user} IDENTIFIED BY 'right'`,
      `GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO ${user}`,
    );
}, 120_000);
afterAll(async () => {
  await lab[Symbol.asyncDispose]();
});

const over = (tls: MysqlTls, more: Partial<MysqlEndpoint> = {}): MysqlEndpoint => ({ ...lab.endpoint, tls, ...more });

async function connects(endpoint: MysqlEndpoint): Promise<boolean> {
  const connection = await connectMysql(endpoint, signal);
  const [row] = await connection.query("SHOW SESSION STATUS LIKE 'Ssl_cipher'");
  await connection.close();
  expect(connection.encrypted).toBe(row?.Value !== '');
  return connection.encrypted;
}

describe('connections', () => {
  test('caching_sha2_password: by RSA key without TLS, over TLS, over a socket file', async () => {
    const account = { user: 'rsa', password: 'right' };
    expect(await connects(over({ mode: 'disabled' }, account))).toBe(false);
    expect(await connects(over({ mode: 'required' }, { ...account, user: 'tls' }))).toBe(true);
    const socketPath = join(lab.dir, 's.sock');
    expect(await connects(over({ mode: 'preferred' }, { ...account, user: 'sock', socketPath }))).toBe(false);
    expect(await connects(over({ mode: 'required' }, { socketPath }))).toBe(true);
    expect(await connects(over({ mode: 'preferred' }))).toBe(true);
  });

  test('capture over TLS is byte-identical', async () => {
    const recording = new Recording(lab, { endpoint: over({ mode: 'required' }, { user: 'tls', password: 'right' }) });
    await lab.sql(
      'CREATE DATABASE IF NOT EXISTS s',
      'CREATE TABLE s.t (b LONGBLOB)',
      "INSERT INTO s.t VALUES (REPEAT('xyz', 1000000))",
    );
    await recording.caughtUp(lab);
    await recording.stop();
    expect(recording.files()).toEqual(await lab.ownFiles());
  });

  test('with rests, many small commits come together, and all of them come', async () => {
    await lab.sql('CREATE TABLE s.small (id INT AUTO_INCREMENT PRIMARY KEY, n INT)');
    const entries: number[] = [];
    for (const restMs of [0, 300]) {
      const endpoint = over({ mode: 'required' }, { user: 'tls', password: 'right' });
      const recording = new Recording(lab, { endpoint, restMs, flushMs: 1 });
      await recording.caughtUp(lab);
      const before = recording.entries.length;
      for (let n = 0; n < 200; n++) await lab.sql(`INSERT INTO s.small (n) VALUES (${n})`);
      await lab.sql("INSERT INTO s.t VALUES (REPEAT('xyz', 1000000))");
      await recording.caughtUp(lab);
      await recording.stop();
      expect(recording.files()).toEqual(await lab.ownFiles());
      entries.push(recording.entries.filter(({ kind }, index) => index >= before && kind === 'events').length);
    }
    const [atOnce = 0, withRests = 0] = entries;
    expect(atOnce).toBeGreaterThan(2 * withRests);
  });

  test.each(['disabled', 'required'] as const)('while it is paused, next to nothing is read (TLS %s)', async (mode) => {
    const connection = await authenticate(over({ mode }), signal, true);
    await connection.query("SET @source_binlog_checksum = 'CRC32'");
    const { file, position } = await binlogStatus(connection);
    let received = 0;
    const socket = connection.takeSocket(() => received++) as Socket;
    socket.write(binlogDumpCommand({ file, position, serverId: 4711, nonBlocking: false }));
    socket.resume();
    while (received === 0) await sleep(10);
    await sleep(200);
    socket.pause();
    const before = socket.bytesRead;
    for (let n = 0; n < 100; n++) await lab.sql(`INSERT INTO s.small (n) VALUES (${n})`);
    const whileItIsPaused = socket.bytesRead - before;
    socket.resume();
    while (socket.bytesRead - before < 100 * 200) await sleep(10);
    socket.destroy();
    expect(whileItIsPaused).toBeLessThan(1000);
  });

  test('certificates: trusted, unknown, for another host, missing files', async () => {
    const caFile = join(lab.dataDir, 'ca.pem');
    expect(await connects(over({ mode: 'verify_ca', caFile }))).toBe(true);
    await expect(connects(over({ mode: 'verify_ca' }))).rejects.toMatchObject({
      kind: 'configuration',
      code: 'QZ2114',
    });
    const other = join(lab.dir, 'other-ca.pem');
    await writeFile(other, selfSignedCertificate('another authority', 10).certPem);
    await expect(connects(over({ mode: 'verify_ca', caFile: other }))).rejects.toMatchObject({ code: 'QZ2114' });
    for (const host of ['127.0.0.1', 'localhost'])
      await expect(connects(over({ mode: 'verify_identity', caFile }, { host }))).rejects.toMatchObject({
        code: 'QZ2113',
      });
    await expect(connects(over({ mode: 'verify_ca', caFile: '/nowhere.pem' }))).rejects.toMatchObject({
      code: 'QZ2118',
    });
    const empty = join(lab.dir, 'empty.pem');
    await writeFile(empty, '');
    await expect(connects(over({ mode: 'verify_ca', caFile: empty }))).rejects.toMatchObject({ code: 'QZ2118' });
  });

  test('a server without TLS: refused when required, used when preferred', async () => {
    await lab.down('stop');
    await lab.up({ 'tls-version': '' });
    await expect(connects(over({ mode: 'required' }))).rejects.toMatchObject({ kind: 'configuration', code: 'QZ2112' });
    expect(await connects(over({ mode: 'preferred' }))).toBe(false);
  }, 120_000);

  test('the identity is checked by name and by address, before the password is sent', async () => {
    const { certPem, keyPem } = selfSignedCertificate('source', 10);
    const caFile = join(lab.dir, 'cert.pem');
    await writeFile(caFile, certPem);
    await writeFile(join(lab.dir, 'key.pem'), keyPem);
    await lab.down('stop');
    await lab.up({
      'tls-version': 'TLSv1.2,TLSv1.3',
      'ssl-ca': caFile,
      'ssl-cert': caFile,
      'ssl-key': join(lab.dir, 'key.pem'),
    });
    for (const host of ['127.0.0.1', 'localhost'])
      expect(await connects(over({ mode: 'verify_identity', caFile }, { host }))).toBe(true);
  }, 120_000);

  test('unresolvable, unreachable, silent', async () => {
    const host = { host: 'no-such-host.invalid' };
    await expect(connects(over({ mode: 'disabled' }, host))).rejects.toMatchObject({
      kind: 'transient',
      code: 'QZ4112',
    });
    await expect(connects(over({ mode: 'disabled' }, { port: 1 }))).rejects.toMatchObject({ code: 'QZ4110' });
    const stop = new AbortController();
    const connecting = connectMysql(over({ mode: 'disabled' }, { host: '192.0.2.1' }), stop.signal);
    stop.abort(new Error('stopped by the test'));
    await expect(connecting).rejects.toThrow('stopped by the test');
  });

  test('a query past its time ends the connection as a passing fault', async () => {
    const connection = await connectMysql(lab.endpoint, signal);
    await expect(connection.query('SELECT SLEEP(5)', [], 100)).rejects.toMatchObject({ code: 'QZ4114' });
    await expect(connection.query('SELECT 1')).rejects.toMatchObject({ kind: 'transient' });
    await connection.close();
  });
});
