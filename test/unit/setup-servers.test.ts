/** How Kafka, its Java, the S3 server and its Go come in: with programs on PATH that only pretend, nothing is fetched. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { ensureGo, ensureJava } from '../../scripts/setup/toolchains.ts';
import { ensureTools } from '../../scripts/setup/tools.ts';

let dir = '';
let said: string[] = [];
const before = { ...process.env };
const say = (line: string) => {
  said.push(line);
};

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'qazyna-setup-servers-'));
  said = [];
  process.env.QAZYNA_CACHE = join(dir, 'cache');
  // flock, and a shell's own.
  process.env.PATH = `${join(dir, 'a')}:${join(dir, 'b')}:/usr/bin:/bin`;
});

afterEach(() => {
  process.env.PATH = before.PATH;
  process.env.QAZYNA_CACHE = before.QAZYNA_CACHE;
  if (before.QAZYNA_CACHE === undefined) delete process.env.QAZYNA_CACHE;
  rmSync(dir, { recursive: true, force: true });
});

/** Each call of it is a line in `<name>.calls`. */
function program(folder: string, name: string, script: string): string {
  mkdirSync(join(dir, folder), { recursive: true });
  const path = join(dir, folder, name);
  writeFileSync(path, `#!/bin/sh\necho "$@" >> '${dir}/${name}.calls'\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

function calls(name: string): string[] {
  const file = join(dir, `${name}.calls`);
  return existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [];
}

function java(folder: string, version: number): string {
  const told = `    java.home = ${dir}/${folder}/home\n    java.specification.version = ${version}`;
  return program(folder, 'java', `printf '%s\\n' '${told}' >&2`);
}

/** Does what Maven would do with the jars. */
const maven = `mkdir lib && touch lib/kafka_2.13.jar && cp pom.xml '@DIR@/pom.xml'; echo "$JAVA_HOME" > '@DIR@/home'`;

describe('Kafka', () => {
  test('what PATH has is used, and nothing is fetched', async () => {
    const [server, storage] = [program('a', 'kafka-server', ''), program('a', 'kafka-storage', '')];
    const { paths } = await ensureTools(['kafka-server', 'kafka-storage'], say);
    expect(paths).toEqual({ 'kafka-server': server, 'kafka-storage': storage });
    expect([said, existsSync(join(dir, 'cache'))]).toEqual([[], false]);
  });

  test('jars by Maven, once, also for two at the same time; started by the Java that was found', async () => {
    java('a', 17);
    program('a', 'mvn', maven.replaceAll('@DIR@', dir));
    const names = ['kafka-server', 'kafka-storage'];
    const [first, second] = await Promise.all([ensureTools(names, say), ensureTools(names, say)]);
    expect(first.paths).toEqual(second.paths);
    expect(calls('mvn')).toHaveLength(1);
    expect(readFileSync(join(dir, 'home'), 'utf8').trim()).toBe(join(dir, 'a/home'));
    expect(readFileSync(join(dir, 'pom.xml'), 'utf8')).toContain('<artifactId>kafka_2.13</artifactId>');
    expect(said.filter((line) => /is ready after [\d.]+ s/.test(line))).toHaveLength(1);
    expect(readdirSync(join(dir, 'cache/packages'))).toEqual(['kafka-4.4.0']);
    const { paths } = await ensureTools(names, say);
    expect(paths).toEqual(first.paths);
    expect(calls('mvn')).toHaveLength(1);
    expect(readFileSync(paths['kafka-server'] ?? '', 'utf8')).toMatch(
      /exec '.*\/a\/home\/bin\/java' .*kafka\.Kafka "\$@"\n$/,
    );
    expect(readFileSync(paths['kafka-storage'] ?? '', 'utf8')).toContain('kafka.tools.StorageTool');
  });

  test('Maven that fails, or fetches nothing: said as such, and tried again the next time', async () => {
    java('a', 21);
    program('a', 'mvn', 'echo "no route to the repository" >&2; exit 1');
    await expect(ensureTools(['kafka-server'], say)).rejects.toMatchObject({
      code: 'QZ4804',
      message: expect.stringContaining('no route to the repository'),
    });
    program('a', 'mvn', ':');
    await expect(ensureTools(['kafka-server'], say)).rejects.toMatchObject({ code: 'QZ2808' });
    expect(readdirSync(join(dir, 'cache/packages'))).toEqual([]);
    program('a', 'mvn', maven.replaceAll('@DIR@', dir));
    await ensureTools(['kafka-server'], say);
  });

  test('a Java that is too old is passed over', async () => {
    java('a', 11);
    java('b', 17);
    expect(await ensureJava(say)).toBe(join(dir, 'b/home'));
    expect(said).toEqual([]);
  });
});

describe('Python', () => {
  test('one that lacks what ops/recover needs is passed over', async () => {
    program('a', 'zstd', '');
    program('a', 'python3', 'exit 1');
    const able = program('b', 'python3', '');
    expect((await ensureTools(['python3'], say)).paths).toEqual({ python3: able });
    expect(calls('python3')).toHaveLength(2);
    expect(said).toEqual([]);
  });
});

describe('the S3 server', () => {
  const go = (version: string) => `if [ "$1" = version ]; then echo 'go version go${version} linux/amd64'; exit; fi`;

  test('built once by Go with what its user configured, and nothing of the build stays', async () => {
    const script = `${go('1.27.1')}
env > '${dir}/env'; touch "$GOPATH.seen"; mkdir -p "$GOBIN" "$GOCACHE" && touch "$GOBIN/versitygw" && chmod +x "$GOBIN/versitygw"`;
    program('a', 'go', script);
    process.env.GOPROXY = 'as-the-user-says';
    const { paths } = await ensureTools(['versitygw'], say);
    await ensureTools(['versitygw'], say);
    delete process.env.GOPROXY;
    expect(calls('go').filter((call) => call.startsWith('install'))).toEqual([
      expect.stringMatching(/^install .*versitygw@v1\.8\.0$/),
    ]);
    const env = Object.fromEntries(
      readFileSync(join(dir, 'env'), 'utf8')
        .split('\n')
        .map((line) => line.split('=', 2)),
    );
    expect(env).toMatchObject({ GOPROXY: 'as-the-user-says', CGO_ENABLED: '0', GOTOOLCHAIN: 'local' });
    expect([existsSync(env.GOPATH ?? ''), existsSync(env.GOCACHE ?? ''), existsSync(`${env.GOPATH}.seen`)]).toEqual([
      false,
      false,
      false,
    ]);
    expect(readFileSync(paths.versitygw ?? '', 'utf8')).toMatch(
      /exec '.*\/versitygw-1\.8\.0\/bin\/versitygw' "\$@"\n$/,
    );
  });

  test('a Go that is too old is passed over', async () => {
    program('a', 'go', go('1.25.9'));
    const newer = program('b', 'go', go('1.26'));
    expect(await ensureGo(say)).toBe(newer);
    expect(said).toEqual([]);
  });

  test('a build that fails says why, and leaves nothing', async () => {
    const failing = (words: string) => program('a', 'go', `${go('1.26')}\necho '${words}' >&2; exit 1`);
    failing('dial tcp: no such host');
    await expect(ensureTools(['versitygw'], say)).rejects.toMatchObject({
      code: 'QZ4804',
      message: expect.stringContaining('no such host'),
    });
    failing('write /x: no space left on device');
    await expect(ensureTools(['versitygw'], say)).rejects.toMatchObject({ code: 'QZ4802' });
    expect(readdirSync(join(dir, 'cache/packages'))).toEqual([]);
  });
});
