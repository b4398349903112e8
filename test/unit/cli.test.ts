import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { toFailure } from '../../cli/failure.ts';
import { createProgram, runCommandLine } from '../../cli/program.ts';
import { configExample } from '../../core/config/example.ts';
import { configurationError, integrityError } from '../../core/errors/error.ts';

type Command = ReturnType<typeof createProgram>;

class Collector extends Writable {
  text = '';
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

function createIo(environment: NodeJS.ProcessEnv = {}, signal = new AbortController().signal) {
  const [stdout, stderr] = [new Collector(), new Collector()];
  return { stdout, stderr, io: { stdout: stdout as never, stderr: stderr as never, environment, signal } };
}

async function run(line: string, environment: NodeJS.ProcessEnv = {}) {
  const { stdout, stderr, io } = createIo(environment);
  const exitCode = await runCommandLine(line.split(' ').filter(Boolean), io);
  return { exitCode, out: stdout.text, err: stderr.text };
}

describe('the command line', () => {
  test.each([
    ['', 'QZ2000', /A verb is missing/, /status, /],
    ['statsu', 'QZ2001', /no verb `statsu`/, /Did you mean status\?/],
    ['snapshot lst', 'QZ2001', /no verb `snapshot lst`/, /Did you mean list\?/],
    ['snapshot', 'QZ2000', /A verb is missing/, /take, list/],
    ['status --jsn', 'QZ2002', /no option --jsn of status/, /Did you mean --json\?/],
    ['--json status', 'QZ2002', /no option --json before the verb/, /--help/],
    ['plan', 'QZ2003', /'--to <instant>' not specified/, /plan --help/],
    ['plan --to', 'QZ2003', /'--to <instant>' argument missing/, /plan --help/],
    ['status extra', 'QZ2003', /too many arguments/, /status --help/],
    ['binlog export', 'QZ2003', /missing required argument 'file'/, /binlog export --help/],
    ['plan --to latest --timeline x', 'QZ2004', /whole number from 1/, /./],
    ['restore --to latest --into /x --port 0', 'QZ2004', /whole number from 1 to 65535/, /./],
    ['status --log-level loud', 'QZ2004', /Allowed choices/, /./],
    ['plan --to 2026-11-23T10:15:00 --from /x', 'QZ2061', /names no time zone/, /2026-11-23T10:15:00Z/],
    ['restore --to latest --from /x', 'QZ2023', /where to put the data/, /--into/],
    ['history nothing --from /x', 'QZ2027', /"nothing" names no table/, /database\.table/],
    ['binlog export ../../etc/passwd --from /x', 'QZ2029', /no name of a binlog file/, /./],
    ['windows --config /nonexistent.yaml', 'QZ2010', /no configuration at \/nonexistent\.yaml/, /--from URL/],
    ['windows --from /nonexistent', 'QZ2401', /\/nonexistent/, /./],
    [
      'windows --key-file /k --config /nonexistent.yaml',
      'QZ2045',
      /--from URL or --from FOLDER/,
      /archives\.NAME\.encryption/,
    ],
    ['windows --from /nonexistent --key-file /nokey', 'QZ2428', /\/nokey cannot be used: ENOENT/, /./],
    ['key new /proc/nothing/key', 'QZ2430', /\/proc\/nothing\/key: ENOENT/, /./],
    ['key id /dev/null', 'QZ2428', /it has 0 bytes, not 32/, /key new/],
    ['windows --from ftp://host/x', 'QZ2407', /ftp:\/\/host\/x/, /file:\/\/\//],
  ])('%s → %s, exit 2', async (line, code, sentence, hint) => {
    const text = await run(line);
    const [first, second, ...rest] = text.err.trimEnd().split('\n');
    const out = line.includes('--json') ? expect.stringContaining(code) : '';
    expect([text.exitCode, text.out, first, second, rest]).toEqual([
      2,
      out,
      expect.stringMatching(new RegExp(`^qazyna: ${code}: `)),
      expect.stringMatching(/^hint: /),
      [],
    ]);
    expect(first).toMatch(sentence);
    expect(second).toMatch(hint);
    if (line.startsWith('--json')) return;
    const json = await run(`${line} --json`.trim());
    expect(json.exitCode).toBe(2);
    const { error } = JSON.parse(json.out);
    // Without a verb, --json itself is what cannot be understood.
    if (line !== '' && line !== 'snapshot' && !line.endsWith('--to'))
      expect([error.code, error.kind]).toEqual([code, 'configuration']);
    expect(Object.keys(error)).toEqual(['code', 'kind', 'message', 'hint', 'details']);
  });

  test('help and version are no errors', async () => {
    const help = await run('--help');
    expect([help.exitCode, help.err]).toEqual([0, '']);
    for (const verb of [
      'status',
      'doctor',
      'windows',
      'plan',
      'restore',
      'history',
      'undo',
      'binlog',
      'snapshot',
      'config',
    ])
      expect(help.out).toContain(`\n  ${verb} `);
    const version = await run('--version');
    expect([version.exitCode, version.out]).toEqual([0, expect.stringMatching(/^\d+\.\d+\.\d+\n$/)]);
  });

  test('every verb has a help with an example that is itself understood', async () => {
    const program = createProgram({ io: createIo().io, finish: () => {} });
    const verbs = leaves(program, []);
    expect(verbs.length).toBeGreaterThanOrEqual(10);
    for (const path of verbs) {
      const help = await run(`${path.join(' ')} --help`);
      expect([path, help.exitCode, help.err]).toEqual([path, 0, '']);
      const examples = [...help.out.matchAll(/^ {2}qazyna (.+)$/gm)].map((match) => match[1] ?? '');
      expect([path, examples.length > 0]).toEqual([path, true]);
      for (const example of examples) {
        const words = [...(example.split(' > ')[0] ?? '').matchAll(/"([^"]*)"|(\S+)/g)].map(
          (match) => match[1] ?? match[2] ?? '',
        );
        expect(words.slice(0, path.length)).toEqual(path);
        await understood(words);
      }
    }
  });
});

function leaves(command: Command, path: readonly string[]): string[][] {
  if (command.commands.length === 0) return [[...path]];
  return command.commands.flatMap((child) => leaves(child, [...path, child.name()]));
}

/** Parses without running: every action is replaced. */
async function understood(words: string[]): Promise<void> {
  const ran: string[] = [];
  const program = createProgram({ io: createIo().io, finish: () => {} });
  const silence = (command: Command) => {
    if (command.commands.length === 0) command.action(() => void ran.push(command.name()));
    for (const child of command.commands) silence(child);
  };
  silence(program);
  await program.parseAsync(words, { from: 'user' });
  expect([words, ran.length]).toEqual([words, 1]);
}

describe('how a verb fails', () => {
  test('with its code, sentence and hint', () => {
    const failure = toFailure(
      integrityError('QZ3410', 'Segment 7 is missing.', 'Use another archive.', { details: { segment: 7 } }),
      null,
    );
    expect(failure).toEqual({
      exitCode: 3,
      lines: ['qazyna: QZ3410: Segment 7 is missing.', 'hint: Use another archive.'],
      json: {
        error: {
          code: 'QZ3410',
          kind: 'integrity',
          message: 'Segment 7 is missing.',
          hint: 'Use another archive.',
          details: { segment: 7 },
        },
      },
    });
  });

  test('as a bug with its stack and causes, exit 1', () => {
    const failure = toFailure(new TypeError('x is not a function', { cause: new Error('deeper') }), null);
    expect(failure.exitCode).toBe(1);
    expect(failure.lines.join('\n')).toMatch(
      /TypeError: x is not a function\n\s+at [\s\S]*caused by Error: deeper[\s\S]*please report/,
    );
    expect(toFailure('a string', null).exitCode).toBe(1);
  });

  test('interrupted: passing, so that a script may run it again', () => {
    const abort = new DOMException('stop', 'AbortError');
    expect(toFailure(new Error('outer', { cause: abort }), 'SIGINT')).toMatchObject({
      exitCode: 4,
      lines: ['qazyna: QZ4000: Interrupted by SIGINT.', expect.any(String)],
    });
    expect(toFailure(abort, null).exitCode).toBe(1);
    expect(toFailure(configurationError('QZ2010', 'a', 'b'), 'SIGINT').exitCode).toBe(2);
  });

  test.each([
    ['EACCES', 2, 'QZ2900'],
    ['ENOSPC', 4, 'QZ4900'],
    ['EIO', 4, 'QZ4900'],
  ])('a fault of the system that nobody named: %s', (code, exitCode, ours) => {
    const error = Object.assign(new Error('x'), { code, syscall: 'open', path: '/srv/x' });
    const failure = toFailure(error, null);
    expect(failure).toMatchObject({ exitCode, json: { error: { code: ours } } });
    expect(failure.lines[0]).toContain('open of /srv/x');
  });
});

describe('config', () => {
  let folder = '';
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'qazyna-cli-'));
    await mkdir(join(folder, 'work'));
  });
  afterAll(async () => {
    await rm(folder, { recursive: true });
  });

  test('example prints what check accepts, and check reads the secrets it names', async () => {
    const example = await run('config example');
    expect([example.exitCode, example.err]).toEqual([0, '']);
    const file = join(folder, 'qazyna.yaml');
    await writeFile(file, example.out);
    expect(await run(`config check --config ${file}`)).toMatchObject({
      exitCode: 2,
      out: expect.stringContaining('QZ2017'),
    });
    const secret = join(folder, 'mysql.password');
    await writeFile(secret, 'hunter2\n', { mode: 0o644 });
    const named = example.out.replace('/etc/qazyna/mysql.password', secret);
    await writeFile(file, named);
    const key = join(folder, '2026-11');
    expect(await run(`config check --config ${file}`)).toMatchObject({
      exitCode: 2,
      out: expect.stringMatching(/^QZ2428: The key file .* cannot be used: ENOENT/),
    });
    const made = await run(`key new ${key}`);
    expect(made).toMatchObject({ exitCode: 0, out: expect.stringContaining(`${key} holds the new key `) });
    await writeFile(file, named.replace('/etc/qazyna/keys/2026-11', key));
    const good = await run('config check', { QAZYNA_CONFIG: file });
    expect(good).toMatchObject({
      exitCode: 0,
      out: expect.stringContaining('is good: source agama, archives onsite, offsite'),
    });
    expect(good.out).toContain(`warning: the secret file ${secret}`);
    expect(good.out + good.err).not.toContain('hunter2');
    const json = JSON.parse((await run('config check --json', { QAZYNA_CONFIG: file })).out);
    expect(json).toMatchObject({ file, valid: true, source: 'agama', problems: [], warnings: [expect.any(String)] });
  });

  test('key new makes a file of 32 bytes for its owner alone, and overwrites nothing', async () => {
    const file = join(folder, 'a-key');
    const { exitCode, out, err } = await run(`key new ${file} --json`);
    expect([exitCode, err]).toEqual([0, '']);
    const bytes = await readFile(file);
    expect([bytes.length, (await stat(file)).mode & 0o777]).toEqual([32, 0o600]);
    const { id } = (JSON.parse(out) as { key: { id: string } }).key;
    expect(await run(`key id ${file}`)).toMatchObject({ exitCode: 0, out: `${id}\n` });
    for (const form of ['hex', 'base64', 'latin1'] as const) expect(out).not.toContain(bytes.toString(form));
    const again = await run(`key new ${file}`);
    expect(again).toMatchObject({ exitCode: 2, err: expect.stringMatching(/^qazyna: QZ2430: .* never overwritten\./) });
    expect(await readFile(file)).toEqual(bytes);
    // Under systemd the credential of the same name is read, save by who names a file himself.
    await chmod(file, 0o644);
    expect((await run(`key id ${file}`, { CREDENTIALS_DIRECTORY: '/nonexistent' })).out).toBe(`${id}\n`);
  });

  test('check lists every problem, with --json in one object', async () => {
    const file = join(folder, 'bad.yaml');
    await writeFile(file, configExample().replace('port: 3306', 'prot: 3306').replace('every: 6h', 'every: 6'));
    const text = await run(`config check --config ${file}`);
    expect(text.exitCode).toBe(2);
    expect(text.out.match(/^QZ\d{4}: /gm)).toEqual(['QZ2013: ', 'QZ2015: ']);
    const json = await run(`config check --json --config ${file}`);
    expect(json.exitCode).toBe(2);
    expect(JSON.parse(json.out)).toMatchObject({
      valid: false,
      problems: [{ code: 'QZ2013' }, { code: 'QZ2015' }],
      error: { code: 'QZ2013' },
    });
  });
});
