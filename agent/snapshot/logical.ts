/**
 * The `logical` engine: a dump, over the network from any server; slower to restore than a clone, but it carries every storage
 * engine. By mydumper where there is one that does, else by mysqldump, which streams everything as one file.
 */
import { configurationError } from '../../core/errors/error.ts';
import { findMysqlProgram, type MysqlProgram } from '../../core/mysql/program.ts';
import type { EngineContext, EngineCopy, SnapshotEngineProgram } from './engine.ts';
import { removeLeftovers, withFolder } from './logical-folder.ts';
import { copyByMysqldump } from './logical-mysqldump.ts';
import { copyByMydumper } from './mydumper.ts';
import { isUnfit, type Unfit } from './mydumper-plan.ts';
import { findMydumper, optionsOf } from './mydumper-program.ts';
import { readInexactTables } from './source-facts.ts';

const dumpName = 'mysqldump';

export const logicalEngine: SnapshotEngineProgram = { check, copy };

async function check(context: EngineContext): Promise<void> {
  await findMysqlProgram(dumpName);
  await removeLeftovers(context);
  const [row] = await context.connection.query('SELECT @@GLOBAL.gtid_mode AS mode');
  if (row?.mode === 'ON') return;
  throw configurationError(
    'QZ2510',
    `The source runs with gtid_mode=${String(row?.mode)}, so a dump cannot say which transactions it holds.`,
    'Run doctor --fix, which turns it on online.',
  );
}

async function copy(context: EngineContext): Promise<EngineCopy> {
  const mysqldump = await findMysqlProgram(dumpName);
  await warnOfFloats(context);
  return await withFolder(context, async (folder) => {
    const copied = await tryMydumper(context, mysqldump, folder);
    if (copied !== null && !isUnfit(copied)) return copied;
    if (copied !== null) {
      const sentence = `mysqldump makes this snapshot instead of mydumper: ${copied.unfit}`;
      context.logger.info(sentence, { component: 'snapshot' });
    }
    return await copyByMysqldump(context, mysqldump, folder);
  });
}

/** Null: there is none. */
async function tryMydumper(
  context: EngineContext,
  mysqldump: MysqlProgram,
  folder: string,
): Promise<EngineCopy | Unfit | null> {
  const found = await findMydumper();
  if (found === null) return null;
  const { program, lacks } = found;
  if (lacks.length > 0) return { unfit: `mydumper ${program.version} does not know --${lacks.join(', --')}` };
  // By what it runs first each of its connections is known.
  if (!(await optionsOf(mysqldump.path)).has('init-command')) {
    return { unfit: `mysqldump ${mysqldump.version}, which it needs beside it, does not know --init-command` };
  }
  return await copyByMydumper(context, { mydumper: program, mysqldump }, folder);
}

/** The server writes a FLOAT with six digits when it is asked for text (MySQL manual, "Problems with Floating-Point Values"). */
async function warnOfFloats({ connection, logger }: EngineContext): Promise<void> {
  const tables = await readInexactTables(connection);
  if (tables.length === 0) return;
  const names = `${tables.slice(0, 10).join(', ')}${tables.length > 10 ? ` and ${tables.length - 10} more` : ''}`;
  const sentence = `a dump keeps six digits of a FLOAT, a clone all: ${names}`;
  logger.warn(sentence, { component: 'snapshot' });
}
