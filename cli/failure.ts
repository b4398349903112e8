/** How a verb fails: one sentence with its code, a hint, and the documented exit code; a bug shows its stack instead. */
import type { CommanderError } from 'commander';
import { nearestWord } from '../core/config/nearest.ts';
import { configurationError, exitCodes, QazynaError, transientError } from '../core/errors/error.ts';

export interface Failure {
  exitCode: number;
  /** For stderr. */
  lines: string[];
  /** For stdout with `--json`. */
  json: { error: { code: string; kind: string; message: string; hint: string; details: Record<string, unknown> } };
}

/** Every thrown thing becomes a failure; what is not one of our errors, and no known fault of the system, is a bug. */
export function toFailure(thrown: unknown, interruptedBy: string | null): Failure {
  const error = known(thrown, interruptedBy);
  if (error) {
    const { code, kind, message, hint, details } = error;
    const lines = [`qazyna: ${code}: ${message}`, ...(hint === '' ? [] : [`hint: ${hint}`])];
    if (kind === 'bug') lines.push(error.stack ?? '', reportLine);
    return { exitCode: error.exitCode, lines, json: { error: { code, kind, message, hint, details } } };
  }
  const stack = thrown instanceof Error ? (thrown.stack ?? String(thrown)) : String(thrown);
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return {
    exitCode: exitCodes.bug,
    lines: [stack, ...causes(thrown), reportLine],
    json: { error: { code: 'bug', kind: 'bug', message, hint: reportLine, details: {} } },
  };
}

const reportLine =
  'This is a bug in qazyna: please report it with the lines above, the verb and the version (`qazyna --version`).';

function known(thrown: unknown, interruptedBy: string | null): QazynaError | null {
  if (interruptedBy !== null && isAbort(thrown))
    return transientError(
      'QZ4000',
      `Interrupted by ${interruptedBy}.`,
      'What was finished is kept: run it again to go on.',
    );
  if (thrown instanceof QazynaError) return thrown;
  return systemError(thrown);
}

function isAbort(thrown: unknown): boolean {
  let error = thrown as { name?: unknown; cause?: unknown } | null | undefined;
  for (let depth = 0; depth < 8 && typeof error === 'object' && error !== null; depth++) {
    if (error.name === 'AbortError') return true;
    error = error.cause as typeof error;
  }
  return false;
}

/** Faults of the system that nobody below gave a better sentence. */
function systemError(thrown: unknown): QazynaError | null {
  const { code, syscall, path } = thrown instanceof Error ? (thrown as NodeJS.ErrnoException) : {};
  if (!code || !syscall) return null;
  const what = `${syscall}${path === undefined ? '' : ` of ${path}`} failed with ${code}`;
  const options = { cause: thrown, details: { systemCode: code } };
  if (['EACCES', 'EPERM', 'EROFS'].includes(code))
    return configurationError(
      'QZ2900',
      `This account may not do what is needed: ${what}.`,
      'Check owner and mode of that path and the account this runs under.',
      options,
    );
  if (['ENOSPC', 'EDQUOT', 'EMFILE', 'ENFILE', 'EIO'].includes(code))
    return transientError(
      'QZ4900',
      `The system has run out of room or files, or a disk failed: ${what}.`,
      'Make room or mend the disk, then run it again.',
      options,
    );
  return null;
}

function causes(thrown: unknown): string[] {
  const lines: string[] = [];
  for (
    let error = (thrown as { cause?: unknown })?.cause;
    error instanceof Error && lines.length < 8;
    error = error.cause
  )
    lines.push(`caused by ${error.stack ?? error.message}`);
  return lines;
}

/** What commander found wrong with the command line, in our words. Null for help and version, which are no errors. */
export function toUsageError(
  error: CommanderError,
  verb: string,
  known: { verbs: string[]; options: string[] },
): QazynaError | null {
  if (['commander.helpDisplayed', 'commander.version'].includes(error.code)) return null;
  const help = `\`qazyna ${verb === '' ? '' : `${verb} `}--help\` shows what there is.`;
  const word = /'([^']*)'/.exec(error.message)?.[1] ?? '';
  const hint = (near: string | null) => (near === null ? help : `Did you mean ${near}? ${help}`);
  switch (error.code) {
    case 'commander.help':
      return configurationError('QZ2000', 'A verb is missing.', `One of ${known.verbs.join(', ')}; ${help}`);
    case 'commander.unknownCommand':
      return configurationError(
        'QZ2001',
        `There is no verb \`${[verb, word].join(' ').trim()}\`.`,
        hint(nearestWord(word, known.verbs)),
      );
    case 'commander.unknownOption':
      return configurationError(
        'QZ2002',
        `There is no option ${word}${verb === '' ? ' before the verb' : ` of ${verb}`}.`,
        hint(nearestWord(word, known.options)),
      );
    case 'commander.invalidArgument':
      return configurationError('QZ2004', `${sentence(error.message)}.`, help);
    default:
      return configurationError(
        'QZ2003',
        `The command line is not complete or has too much: ${sentence(error.message)}.`,
        help,
      );
  }
}

function sentence(message: string): string {
  return (
    message
      .replace(/^error: /, '')
      .replace(/\.+\s*$/, '')
      .split('\n')[0] ?? ''
  );
}
