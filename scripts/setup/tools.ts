/** Programs that tests, demo and bench need: what PATH has is used first, the rest is fetched once into the cache. */
import { randomBytes } from 'node:crypto';
import { chmod, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { configurationError, QazynaError } from '../../core/errors/error.ts';
import { isExecutable, mysqlVersion, programsOnPath } from '../../core/mysql/program.ts';
import { type PackageChoice, run, unpackPackages } from './apt.ts';
import { cachePath, ensureFolder, openCache, type Say, sayOnStderr } from './cache.ts';
import { librariesIn, loaderIn, mysqldScript } from './launchers.ts';
import {
  buildGoProgram,
  fetchKafka,
  fetchOldMysql,
  goLauncher,
  goPrograms,
  influxdbVersion,
  kafkaLauncher,
  kafkaVersion,
  oldMysqlLauncher,
  oldMysqlVersion,
  telegrafVersion,
  versitygwVersion,
} from './servers.ts';

interface ToolPackage {
  /** Part of the folder's name: raised when what it holds changes, so that it is fetched anew. */
  edition: number | string;
  programs: readonly string[];
  /** Whether a program found on PATH will do. */
  accepts(path: string): Promise<boolean>;
  fetch(folder: string, say: Say): Promise<void>;
  /** What runs the program of that name: the text of a shell script behind its first line. */
  launcher(name: string, folder: string, say: Say): Promise<string>;
}

const anyProgram = () => Promise.resolve(true);
const isMysql = async (path: string) => (await mysqlVersion(path)) !== null;

/** Where the module is a file of its own, a configuration must say where; the one that is fetched loads it by itself. */
const hasStreamBuiltIn = async (path: string) =>
  /--with-stream(?!\S)/.test(await run('sh', ['-c', '"$0" -V 2>&1', path]).catch(() => ''));

/** Most tests are of 1.8; 2.x is another program. */
const isInfluxdb1 = async (path: string) => /InfluxDB v?1\.8\./.test(await run(path, ['version']).catch(() => ''));

/** Those of ops/recover: `cryptography`, and one of the ways to zstd. */
const hasModules = async (path: string) => {
  const importing = (names: string) =>
    run(path, ['-c', `import ${names}`]).then(
      () => true,
      () => false,
    );
  if (!(await importing('cryptography.hazmat.primitives.keywrap'))) return false;
  return (await programsOnPath('zstd')).length > 0 || (await importing('zstandard'));
};

const packages: Record<string, ToolPackage> = {
  mysql: unpacked(
    1,
    [
      ['mysql-server-core', 'mysql-server-core-8.4', 'mysql-server-core-8.0'],
      ['mysql-client-core', 'mysql-client-core-8.4', 'mysql-client-core-8.0'],
    ],
    ['mysqld', 'mysql', 'mysqlbinlog', 'mysqldump', 'mysqladmin'],
    isMysql,
  ),
  mydumper: unpacked(2, [['mydumper']], ['mydumper', 'myloader'], anyProgram),
  sysbench: unpacked(2, [['sysbench']], ['sysbench'], anyProgram),
  bind9: unpacked(1, [['bind9'], ['bind9-dnsutils', 'dnsutils']], ['named', 'nsupdate', 'dig'], anyProgram),
  haproxy: unpacked(1, [['haproxy']], ['haproxy'], anyProgram),
  nginx: unpacked(1, [['nginx'], ['libnginx-mod-stream']], ['nginx'], hasStreamBuiltIn),
  python: unpacked(1, [['python3'], ['python3-cryptography'], ['python3-zstandard']], ['python3'], hasModules),
  kafka: {
    edition: kafkaVersion,
    programs: ['kafka-server', 'kafka-storage'],
    // Distributions of Kafka call theirs kafka-server-start.sh; what is called so is ours.
    accepts: anyProgram,
    fetch: fetchKafka,
    launcher: kafkaLauncher,
  },
  'mysql-8.0': {
    edition: oldMysqlVersion,
    programs: ['mysqld-8.0'],
    accepts: anyProgram,
    fetch: fetchOldMysql,
    launcher: (_name, folder) => oldMysqlLauncher(folder),
  },
  versitygw: built('versitygw', versitygwVersion, anyProgram),
  influxd: built('influxd', influxdbVersion, isInfluxdb1),
  'influxdb-1.6': {
    edition: 1,
    programs: ['influxd-1.6'],
    accepts: anyProgram,
    // Distributions have stayed with this one; what a later suite may come to hold is another.
    fetch: (folder, say) => unpackPackages([['influxdb']], join(folder, 'prefix'), say, 'own'),
    launcher: (_name, folder) => unpackedLauncher('influxd', join(folder, 'prefix')),
  },
  telegraf: built('telegraf', telegrafVersion, anyProgram),
};

/** A program of a Go module. */
function built(name: keyof typeof goPrograms, edition: string, accepts: ToolPackage['accepts']): ToolPackage {
  return {
    edition,
    programs: [name],
    accepts,
    fetch: (folder, say) => buildGoProgram(goPrograms[name], folder, say),
    launcher: (_name, folder) => Promise.resolve(goLauncher(name, folder)),
  };
}

/** A package of the distribution, run with the loader and the libraries that came with it. */
function unpacked(
  edition: number,
  choices: readonly PackageChoice[],
  programs: readonly string[],
  accepts: ToolPackage['accepts'],
): ToolPackage {
  return {
    edition,
    programs,
    accepts,
    fetch: async (folder, say) => {
      const prefix = join(folder, 'prefix');
      await unpackPackages(choices, prefix, say);
      for (const name of programs) await programIn(prefix, name);
    },
    launcher: (name, folder) => unpackedLauncher(name, join(folder, 'prefix')),
  };
}

async function unpackedLauncher(name: string, prefix: string): Promise<string> {
  return launcherText(name, prefix, await programIn(prefix, name), await loaderIn(prefix), await librariesIn(prefix));
}

export interface Tools {
  /** Full path of every program asked for. */
  paths: Record<string, string>;
  /** The present environment with a PATH on which these programs are found first. */
  env: NodeJS.ProcessEnv;
}

/**
 * Makes sure that `names` (`mysqld`, `mysqlbinlog`, `mydumper`, …) can be run.
 * Errors: QZ2801–QZ2808, QZ4802, QZ4803.
 */
export async function ensureTools(names: readonly string[], say: Say = sayOnStderr): Promise<Tools> {
  const paths: Record<string, string> = {};
  for (const name of names) paths[name] = await ensureTool(name, say);
  const path = process.env.PATH ?? '';
  const fetched = Object.values(paths).some((file) => dirname(file) === cachePath('bin'));
  const missing = fetched && !path.split(':').includes(cachePath('bin'));
  return { paths, env: { ...process.env, PATH: missing ? `${cachePath('bin')}:${path}` : path } };
}

/** Path of one that not every distribution has; null where this one has not. Errors otherwise as above. */
export async function findTool(name: string, say: Say = sayOnStderr): Promise<string | null> {
  try {
    return await ensureTool(name, say);
  } catch (error) {
    if (error instanceof QazynaError && error.code === 'QZ2807') return null;
    throw error;
  }
}

async function ensureTool(name: string, say: Say): Promise<string> {
  const owner = Object.entries(packages).find(([, { programs }]) => programs.includes(name));
  if (!owner)
    throw unknownTool(
      name,
      Object.values(packages).flatMap(({ programs }) => programs),
    );
  const [packageName, tool] = owner;
  for (const path of await programsOnPath(name)) {
    // A wrapper of ours on PATH is the cache, not something that the machine has.
    if (path !== cachePath('bin', name) && (await tool.accepts(path))) return path;
  }
  const folder = await ensureFolder(`${packageName}-${tool.edition}`, (part) => tool.fetch(part, say), say);
  return wrap(name, await tool.launcher(name, folder, say));
}

async function programIn(prefix: string, name: string): Promise<string> {
  for (const folder of ['usr/sbin', 'usr/bin']) {
    const path = join(prefix, folder, name);
    if (await isExecutable(path)) return path;
  }
  throw configurationError('QZ2808', `The fetched package has no program ${name}.`, 'Install it by hand, on PATH.');
}

/** Writes `bin/<name>`. */
async function wrap(name: string, launcher: string): Promise<string> {
  const wrapper = cachePath('bin', name);
  const text = `#!/bin/sh\n# Made by qazyna's set-up: ${name} with what it was fetched with.\n${launcher}`;
  await openCache();
  if ((await readFile(wrapper, 'utf8').catch(() => '')) === text) return wrapper;
  const part = `${wrapper}.${randomBytes(4).toString('hex')}.part`;
  await writeFile(part, text);
  await chmod(part, 0o755);
  await rename(part, wrapper);
  return wrapper;
}

function launcherText(name: string, prefix: string, program: string, loader: string, folders: string[]): string {
  const isMysqlClient = packages.mysql?.programs.includes(name);
  const exec = `exec '${loader}' --library-path '${folders.join(':')}' '${program}'`;
  if (name === 'mysqld')
    return mysqldScript(exec, [
      `--basedir=${prefix}/usr`,
      `--lc-messages-dir=${prefix}/usr/share/mysql`,
      `--character-sets-dir=${prefix}/usr/share/mysql/charsets`,
      `--plugin-dir=${prefix}/usr/lib/mysql/plugin`,
    ]);
  const lines =
    name === 'nginx'
      ? [`${exec} -g 'load_module ${prefix}/usr/lib/nginx/modules/ngx_stream_module.so;' "$@"`]
      : [...(isMysqlClient ? [] : environmentOf(prefix)), `${exec} "$@"`];
  return `${lines.join('\n')}\n`;
}

/** Debian builds these on MariaDB's client library, which looks for its plugins in a fixed place; so does sysbench for scripts. */
function environmentOf(prefix: string): string[] {
  return [
    `MARIADB_PLUGIN_DIR=$(echo '${prefix}'/usr/lib/*/libmariadb3/plugin); export MARIADB_PLUGIN_DIR`,
    `LUA_PATH='${prefix}/usr/share/sysbench/?.lua;;'; export LUA_PATH`,
  ];
}

function unknownTool(name: string, knownNames: string[]) {
  return configurationError('QZ2809', `Set-up does not know ${name}.`, `It can fetch: ${knownNames.join(', ')}.`);
}
