/** What runs a program from a folder that packages were unpacked into: with their loader and their libraries. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { configurationError } from '../../core/errors/error.ts';
import { isExecutable } from '../../core/mysql/program.ts';

export async function loaderIn(prefix: string): Promise<string> {
  for (const folder of ['usr/lib64', 'lib64', 'usr/lib', 'lib']) {
    for (const name of await readdir(join(prefix, folder)).catch(() => [])) {
      const path = join(prefix, folder, name);
      if (/^ld-linux.*\.so\.\d+$/.test(name) && (await isExecutable(path))) return path;
    }
  }
  throw configurationError('QZ2808', 'The fetched package has no dynamic loader.', 'Install MySQL by hand, on PATH.');
}

export async function librariesIn(prefix: string): Promise<string[]> {
  const found: string[] = [];
  for (const base of ['usr/lib', 'lib']) {
    for (const name of await readdir(join(prefix, base)).catch(() => [])) {
      if (/-linux-gnu/.test(name)) found.push(join(prefix, base, name));
    }
  }
  return [...found, join(prefix, 'usr/lib/mysql/private')];
}

/** `exec`: the shell's command; `settings`: options of mysqld, which those of the caller override. */
export function mysqldScript(exec: string, settings: readonly string[]): string {
  const quoted = settings.map((setting) => `'${setting}'`).join(' ');
  return [
    '# Options that must come first stay first; what the caller gives later overrides the folders.',
    'case "$1" in',
    `  --no-defaults|--defaults-*|--print-defaults) first=$1; shift; ${exec} "$first" ${quoted} "$@" ;;`,
    `  *) ${exec} ${quoted} "$@" ;;`,
    'esac',
    '',
  ].join('\n');
}
