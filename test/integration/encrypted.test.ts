/**
 * An encrypted archive from its first byte to a restored server, across a change of keys: by the programs themselves, and by
 * ops/recover alone, without any code of ours. A plain archive beside it shows that what is looked for can be found.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { hash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openStore } from '../../core/archive/open.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { greets } from '../../core/mysql/mysqld.ts';
import { findMysqlProgram } from '../../core/mysql/program.ts';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { fingerprint } from '../lab/fingerprint.ts';
import { Lab } from '../lab/lab.ts';
import { binlogShapes, nastyRound, nastySchema } from '../lab/nasty.ts';
import { connected, endServer, executedSet, RunningDaemon, type VerbResult, verb } from '../lab/running.ts';

const statementMs = 60_000;
const startWithinMs = 60_000;
const script = new URL('../../ops/recover/recover.py', import.meta.url).pathname;

let lab: Lab;
let source: MysqlConnection;
let dir: string;
let plainConfig: string;
let keys: { first: string; second: string; wrong: string };
let middle: { to: string; lines: string[] };
let end: string[];
/** A dump writes a table's character set where its collation says it already. */
const alike = (lines: readonly string[]) => lines.map((line) => line.replaceAll(' CHARACTER SET utf8mb4', ''));
const said: string[] = [];
const commandLines: string[] = [];
const servers: number[] = [];
const children: ChildProcess[] = [];

async function qazyna(args: string): Promise<VerbResult> {
  const result = await verb(args.split(' '), { QAZYNA_CONFIG: lab.configFile });
  said.push(result.stdout, result.stderr);
  return result;
}

/** As the lab wrote it, with the archive offsite encrypted. */
function configText(offsite: string): string {
  const encryption = offsite === '' ? '' : `, encryption: { ${offsite} }`;
  return plainConfig.replace('path_style: true', `path_style: true${encryption}`);
}

async function running(work: (daemon: RunningDaemon) => Promise<void>): Promise<void> {
  const daemon = new RunningDaemon(lab);
  try {
    await work(daemon);
    commandLines.push(await readFile(`/proc/${daemon.pid}/cmdline`, 'latin1'));
    await daemon.untilArchived(source);
    expect(await daemon.end('SIGTERM')).toBe(0);
  } finally {
    await daemon.end('SIGKILL');
    said.push(daemon.stderr);
  }
}

async function change(round: number, settings: readonly string[] = []): Promise<void> {
  for (const statement of [...settings, ...nastyRound(round)]) await source.query(statement, [], statementMs);
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qazyna-encrypted-'));
  lab = await Lab.start({ s3: true });
  source = await connected(lab.mysql.root);
  plainConfig = await readFile(lab.configFile, 'utf8');
  keys = { first: join(dir, '2026-11'), second: join(dir, '2027-11'), wrong: join(dir, 'wrong') };
  for (const file of Object.values(keys)) expect((await qazyna(`key new ${file}`)).code).toBe(0);
  for (const statement of nastySchema) await source.query(statement, [], statementMs);
  await writeFile(lab.configFile, configText(`key_file: ${keys.first}`));
  await running(async (daemon) => {
    await daemon.untilProtected();
    await change(0);
    await change(1, binlogShapes.compressed);
    middle = { to: await instant(), lines: await fingerprint(source) };
    await source.query('FLUSH BINARY LOGS');
  });
  await writeFile(lab.configFile, configText(`key_file: ${keys.second}, old_key_files: [${keys.first}]`));
  await running(async (daemon) => {
    await change(2);
    await daemon.untilArchived(source);
    const logical = `${lab.configFile}.logical`;
    await writeFile(logical, (await readFile(lab.configFile, 'utf8')).replace('engine: clone', 'engine: logical'));
    expect(await qazyna(`snapshot take --config ${logical}`)).toMatchObject({ code: 0 });
    await change(3);
    end = await fingerprint(source);
  });
}, 240_000);

afterAll(async () => {
  for (const pid of servers) await endServer(pid);
  for (const child of children) child.kill('SIGKILL');
  await source?.close();
  await lab?.stop();
  await rm(dir, { recursive: true, force: true });
}, 120_000);

/** By the source's clock, with nothing committed at or just before it. */
async function instant(): Promise<string> {
  const [row] = await source.query(
    "SELECT DATE_FORMAT(CONVERT_TZ(SYSDATE(6), @@session.time_zone, '+00:00'), '%Y-%m-%dT%H:%i:%s.%fZ') AS now",
  );
  return String(row?.now);
}

const bare = (files: string[]) => [`--from ${lab.offsiteUrl}`, ...files.map((file) => `--key-file ${file}`)].join(' ');

describe('by the programs themselves', () => {
  test('a host that knows the bucket and both keys restores everything; it lists, finds and exports', async () => {
    const from = bare([keys.second, keys.first]);
    const { code, stdout, stderr } = await qazyna(`restore --to latest --into ${join(dir, 'restored')} ${from} --json`);
    if (code !== 0) throw new Error(stderr);
    const { pid, socket } = (JSON.parse(stdout) as { restore: { pid: number; socket: string } }).restore;
    servers.push(pid);
    const server = await connected({ ...lab.mysql.root, socketPath: socket });
    try {
      expect(alike(await fingerprint(server))).toEqual(alike(end));
      expect((await executedSet(server)).toString()).toBe((await executedSet(source)).toString());
    } finally {
      await server.close();
    }
    expect(await qazyna(`windows ${from} --json`)).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('"gaps":[]'),
    });
    const history = await qazyna(`history nasty.no_key --since 1h-ago ${from}`);
    expect(history).toMatchObject({ code: 0, stdout: expect.stringContaining('INSERT') });
    const [file] = (await source.query('SHOW BINARY LOGS')).map((row) => String(row.Log_name));
    const output = join(dir, 'exported');
    expect((await qazyna(`binlog export ${file} --output ${output} ${from}`)).code).toBe(0);
    const sums = [output, join(lab.mysql.dataDir, file ?? '')].map(async (path) =>
      hash('sha256', await readFile(path)),
    );
    const [exported, original] = await Promise.all(sums);
    expect(exported).toBe(original);
  }, 120_000);

  test('with the configuration, the old instant is restored too', async () => {
    const into = join(dir, 'middle');
    const { code, stdout, stderr } = await qazyna(`restore --to ${middle.to} --into ${into} --from offsite --json`);
    if (code !== 0) throw new Error(stderr);
    const { pid, socket } = (JSON.parse(stdout) as { restore: { pid: number; socket: string } }).restore;
    servers.push(pid);
    const server = await connected({ ...lab.mysql.root, socketPath: socket });
    expect(await fingerprint(server)).toEqual(middle.lines);
    await server.close();
  }, 120_000);

  test('reading without the right keys: refused, and the key that is wanted is named', async () => {
    const cases = [
      ['QZ2426', bare([])],
      ['QZ2429', bare([keys.wrong])],
      ['QZ2429', bare([keys.second])],
      ['QZ2427', `--from ${lab.dir}/archives/onsite --key-file ${keys.first}`],
    ] as const;
    const results = await Promise.all(cases.map(([, options]) => qazyna(`plan --to latest --json ${options}`)));
    const codes = results.map(({ code, stdout }) => [code, JSON.parse(stdout).error.code]);
    expect(codes).toEqual(cases.map(([errorCode]) => [2, errorCode]));
    const id = (await qazyna(`key id ${keys.first}`)).stdout.trim();
    for (const { stdout } of [results[0], results[1], results[2]].flatMap((one) => one ?? []))
      expect(JSON.parse(stdout).error.message).toContain(id);
  }, 120_000);

  test('no daemon starts while an archive and its keys do not fit, and doctor says why', async () => {
    const encryptedOnsite = (text: string) =>
      text.replace(/onsite"/, `onsite", encryption: { key_file: ${keys.first} }`);
    const cases: [string, string, ((text: string) => string)?][] = [
      ['QZ2426', ''],
      ['QZ2429', `key_file: ${keys.wrong}`],
      ['QZ2428', `key_file: ${dir}/gone`],
      ['QZ2428', `key_file: ${keys.second}, old_key_files: [/dev/null]`],
      ['QZ2427', `key_file: ${keys.second}, old_key_files: [${keys.first}]`, encryptedOnsite],
    ];
    const results = await Promise.all(
      cases.map(async ([, offsite, change = (text) => text], index) => {
        const config = join(dir, `unfit-${index}.yaml`);
        const alone = (text: string) => text.replace(/local: .*/, `local: { dir: ${dir}/log-${index} }`);
        await writeFile(config, change(alone(configText(offsite))).replace(/listen: .*/, 'listen: "127.0.0.1:0" }'));
        const [run, doctor] = await Promise.all([
          qazyna(`run --config ${config}`),
          qazyna(`doctor --config ${config}`),
        ]);
        return [
          run.code,
          /^qazyna: (QZ\d+): /m.exec(run.stderr)?.[1],
          doctor.code,
          /FAIL {2}(QZ\d+): /.exec(doctor.stdout)?.[1],
        ];
      }),
    );
    expect(results).toEqual(cases.map(([errorCode]) => [2, errorCode, 5, errorCode]));
  }, 120_000);

  test('no key in anything that was said or kept, nor on a command line', async () => {
    const kept = await filesBelow(join(lab.dir, 'log'));
    const [offsite, onsite] = [await filesBelow(join(lab.dir, 's3')), await filesBelow(join(lab.dir, 'archives'))];
    expect(offsite.length).toBeGreaterThan(10);
    for (const file of Object.values(keys)) {
      const bytes = await readFile(file);
      for (const form of ['hex', 'base64', 'latin1'] as const) {
        const secret = Buffer.from(bytes.toString(form), form === 'latin1' ? 'latin1' : 'utf8');
        for (const text of [...said, ...commandLines].map((each) => Buffer.from(each, 'latin1')))
          expect(text.includes(secret)).toBe(false);
        for (const text of [...kept, ...offsite, ...onsite]) expect(text.includes(secret)).toBe(false);
      }
    }
  });

  test('a thief of the bucket finds no GTID and no name of a table; of the plain archive he does', async () => {
    const [row] = await source.query('SELECT @@server_uuid AS uuid');
    const uuid = Buffer.from(String(row?.uuid).replaceAll('-', ''), 'hex');
    const holds = (files: Buffer[], what: Buffer | string) => files.filter((bytes) => bytes.includes(what)).length;
    const [offsite, onsite] = [
      await filesBelow(join(lab.dir, 's3/data')),
      await filesBelow(join(lab.dir, 'archives/onsite')),
    ];
    for (const what of [uuid, String(row?.uuid), 'nasty']) {
      expect([what, holds(onsite, what) > 0]).toEqual([what, true]);
      expect([what, holds(offsite, what)]).toEqual([what, 0]);
    }
  });
});

async function filesBelow(folder: string): Promise<Buffer[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return await Promise.all(
    entries.filter((one) => one.isFile()).map((one) => readFile(join(one.parentPath, one.name))),
  );
}

describe('by ops/recover, without our code', () => {
  test('an encrypted archive, copied down from its bucket: a dump, and what followed it', async () => {
    const copy = join(dir, 'copied');
    const store = await openStore(lab.offsiteUrl, { create: false });
    for await (const { key } of store.list('')) {
      await mkdir(dirname(join(copy, key)), { recursive: true });
      await writeFile(join(copy, key), (await store.get(key)) ?? '');
    }
    const none = await recover([copy]);
    expect(none).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^recover: It is encrypted under the key [0-9a-f]{16} or /),
    });
    const some = await recover([copy, '--key', keys.second]);
    expect(some).toMatchObject({ code: 1, stderr: expect.stringMatching(/which is not at hand \(--key\)\.$/m) });
    const both = ['--key', keys.second, '--key', keys.first];
    expect(alike(await recovered([copy, ...both], 'a'))).toEqual(alike(end));
    for (const name of await readdir(join(copy, 'packs'), { recursive: true })) {
      const path = join(copy, 'packs', name);
      const bytes = (await stat(path)).isFile() ? await readFile(path) : null;
      if (bytes !== null) await writeFile(path, bytes.fill((bytes[5000] ?? 0) ^ 1, 5000, 5001));
    }
    const damaged = await recover([copy, ...both, '--into', join(dir, 'damaged')]);
    expect(damaged).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /^recover: packs\/.* is damaged, or was put there by somebody without the key \(chunk 1\)/m,
      ),
    });
  }, 180_000);

  test('a plain archive: a clone, up to an instant', async () => {
    expect(await recovered([join(lab.dir, 'archives/onsite'), '--to', middle.to], 'b')).toEqual(middle.lines);
  }, 120_000);
});

async function recover(args: string[]): Promise<VerbResult> {
  const { paths } = await ensureTools(['python3']);
  return await ended(spawn(paths.python3 ?? '', [script, ...args], { stdio: ['ignore', 'pipe', 'pipe'] }));
}

async function ended(child: ChildProcess): Promise<VerbResult> {
  const out = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const)
    child[name]?.setEncoding('utf8').on('data', (text: string) => {
      out[name] += text;
    });
  const code = await new Promise<number | null>((resolve, reject) =>
    child.once('error', reject).once('close', resolve),
  );
  return { code, ...out };
}

/** Does what the script printed, but for the account that owns the files; the fingerprint of the server that this makes. */
async function recovered(args: string[], name: string): Promise<string[]> {
  const into = join(dir, name);
  const { code, stdout, stderr } = await recover([...args, '--into', into]);
  if (code !== 0) throw new Error(stderr);
  const mysqld = (await findMysqlProgram('mysqld')).path;
  const account = process.getuid?.() === 0 ? 'root' : 'mysql';
  const socket = join(into, 'mysqld.sock');
  const commands = stdout
    .split('\n')
    .filter((line) => /^ {2}(mysqld|mysql|\(cd|sh) /.test(line))
    .map((line) =>
      line
        .trim()
        .replace(/^mysqld /, `'${mysqld}' `)
        .replace('--user=mysql', `--user=${account}`),
    );
  for (const command of commands) {
    const isServer = command.endsWith('&');
    const line = command.replace(/ &$/, '').replace('--user=root --password', '--user=root');
    const env = { ...process.env, MYSQL_PWD: command.startsWith('sh ') ? lab.mysql.root.password : '' };
    const child = spawn('sh', ['-c', isServer ? `exec ${line}` : line], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    const result = ended(child);
    if (isServer) {
      children.push(child);
      for (const until = performance.now() + startWithinMs; !(await greets(socket)); await sleep(100))
        if (performance.now() > until || child.exitCode !== null) throw new Error((await result).stderr);
      continue;
    }
    const { code: exitCode, stdout: out, stderr: err } = await result;
    if (exitCode !== 0) throw new Error(`${command}: ${out}${err}`);
    // The shell's `wait`, for a server that is not this shell's.
    const last = command.includes('SHUTDOWN') ? children.pop() : undefined;
    if (last?.exitCode === null) await once(last, 'exit');
    if (command.startsWith('sh ')) expect(out).toBe('All is replayed.\n');
  }
  const server = await connected({ ...lab.mysql.root, socketPath: socket });
  try {
    return await fingerprint(server);
  } finally {
    await server.close();
    children.pop()?.kill('SIGTERM');
  }
}
