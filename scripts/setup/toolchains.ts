/**
 * What builds or runs tools that no package of the distribution holds: Go, a Java runtime, Maven. The machine's own are used
 * when they will do; else the distribution's packages are unpacked into the cache, like everything else.
 */
import { spawn } from 'node:child_process';
import { lstat, readdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { configurationError } from '../../core/errors/error.ts';
import { isExecutable, programsOnPath } from '../../core/mysql/program.ts';
import { run, unpackPackages } from './apt.ts';
import { ensureFolder, exists, type Say } from './cache.ts';
import { trustStoreOf } from './trust-store.ts';

const goMinor = 26;
const javaMajor = 17;
const trustStorePassword = 'changeit';
const authorities = '/etc/ssl/certs/ca-certificates.crt';

/** Path of a `go` of 1.26 or newer. */
export async function ensureGo(say: Say): Promise<string> {
  for (const path of await programsOnPath('go')) {
    const version = /go1\.(\d+)/.exec(await run(path, ['version']).catch(() => ''))?.[1];
    if (Number(version) >= goMinor) return path;
  }
  const folder = await ensureFolder(
    'go-1',
    (part) => unpackPackages([[`golang-1.${goMinor}-go`, `golang-1.${goMinor + 1}-go`]], part, say),
    say,
  );
  const roots = await readdir(join(folder, 'usr/lib'));
  const root = roots.find((name) => name.startsWith('go-1.'));
  const go = join(folder, 'usr/lib', root ?? '', 'bin/go');
  if (!(await isExecutable(go))) throw configurationError('QZ2808', 'The fetched package has no program go.', byHand);
  return go;
}

/** Home of a Java runtime of 17 or newer (its `bin/java`). */
export async function ensureJava(say: Say): Promise<string> {
  for (const path of await programsOnPath('java')) {
    const settings = await outputOf(path, ['-XshowSettings:properties', '-version']);
    const major = /java\.specification\.version = (\d+)/.exec(settings)?.[1];
    const home = /java\.home = (\S.*)/.exec(settings)?.[1]?.trim();
    if (Number(major) >= javaMajor && home !== undefined) return home;
  }
  const folder = await ensureFolder('java-1', (part) => unpackJava(part, say), say);
  return await javaHomeIn(folder);
}

/** Path of `mvn`, and the environment that it wants. */
export async function ensureMaven(javaHome: string, say: Say): Promise<{ path: string; env: NodeJS.ProcessEnv }> {
  const env: NodeJS.ProcessEnv = { ...process.env, JAVA_HOME: javaHome };
  // The distribution's own has no authorities of its own, but for those that we put there.
  const trust = join(javaHome, trustStoreName);
  if (await exists(trust)) {
    const place = `-Djavax.net.ssl.trustStore=${trust} -Djavax.net.ssl.trustStoreType=jks`;
    env.MAVEN_OPTS = `${env.MAVEN_OPTS ?? ''} ${place}`.trim();
  }
  const [present] = await programsOnPath('mvn');
  if (present !== undefined) return { path: present, env };
  const folder = await ensureFolder('maven-1', (part) => unpackLinked([['maven']], part, say), say);
  return { path: join(folder, 'usr/share/maven/bin/mvn'), env: { ...env, M2_HOME: join(folder, 'usr/share/maven') } };
}

const byHand = 'Install it by hand, on PATH.';
const trustStoreName = 'qazyna-trust.jks';

async function unpackJava(folder: string, say: Say): Promise<void> {
  await unpackLinked([['openjdk-21-jre-headless', 'openjdk-17-jre-headless', 'openjdk-25-jre-headless']], folder, say);
  const home = await javaHomeIn(folder);
  // The package leaves this to a script that runs at installation.
  const pem = await readFile(process.env.SSL_CERT_FILE ?? authorities, 'utf8').catch(() => '');
  const { bytes, count } = trustStoreOf(pem, trustStorePassword);
  say(`giving Java the ${count} authorities of this machine`);
  await writeFile(join(home, trustStoreName), bytes);
}

async function javaHomeIn(folder: string): Promise<string> {
  const homes = join(folder, 'usr/lib/jvm');
  for (const name of await readdir(homes).catch(() => [])) {
    const home = join(homes, name);
    if (!(await lstat(home)).isSymbolicLink() && (await isExecutable(join(home, 'bin/java')))) return home;
  }
  throw configurationError('QZ2808', 'The fetched package has no Java runtime.', byHand);
}

/** Of the machine's own suite, because these run with its C library; absolute links inside lead into the folder. */
async function unpackLinked(choices: readonly string[][], folder: string, say: Say): Promise<void> {
  await unpackPackages(choices, folder, say, 'own');
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isSymbolicLink()) continue;
    const path = join(entry.parentPath, entry.name);
    const target = await readlink(path);
    if (!target.startsWith('/') || !(await exists(join(folder, target)))) continue;
    await rm(path);
    await symlink(relative(dirname(path), join(folder, target)), path);
  }
}

/** Both streams: java tells its version on standard error. */
function outputOf(program: string, args: string[]): Promise<string> {
  return new Promise((resolve) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (part: string) => {
        text += part;
      });
    }
    child.once('error', () => resolve('')).once('close', () => resolve(text));
  });
}
