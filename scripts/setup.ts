/** `npm run setup -- [PROGRAM…]`: fetches what is missing, once. Default: what the embedded demo needs. */
import { QazynaError } from '../core/errors/error.ts';
import { ensureTools } from './setup/tools.ts';

export const demoTools = ['mysqld', 'mysql', 'mysqlbinlog', 'mysqldump'] as const;

/** Runs a script's body; an expected error becomes its sentence, hint and exit code. */
export async function main(body: () => Promise<number | undefined>): Promise<void> {
  try {
    process.exitCode = (await body()) ?? 0;
  } catch (error) {
    if (!(error instanceof QazynaError)) throw error;
    process.stderr.write(`qazyna: ${error.code}: ${error.message}\nhint: ${error.hint}\n`);
    process.exitCode = error.exitCode;
  }
}

async function setUp(): Promise<undefined> {
  const begun = performance.now();
  const names = process.argv.slice(2);
  const { paths } = await ensureTools(names.length > 0 ? names : demoTools);
  for (const [name, path] of Object.entries(paths)) process.stderr.write(`set-up: ${name} is ${path}\n`);
  process.stderr.write(`set-up: ready after ${((performance.now() - begun) / 1000).toFixed(2)} s\n`);
}

if (import.meta.main) await main(setUp);
