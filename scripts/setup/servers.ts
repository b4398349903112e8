/** Servers that no package of the distribution holds: Kafka from its jars, others built from their sources by Go. */
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { configurationError } from '../../core/errors/error.ts';
import { run } from './apt.ts';
import type { Say } from './cache.ts';
import { ensureGo, ensureJava, ensureMaven } from './toolchains.ts';

export const kafkaVersion = '4.4.0';
const slf4jVersion = '1.7.36';
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
