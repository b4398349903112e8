/** The frame every verb stands in: its common options, its context, its help with an example. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type Config, configPath, loadConfig } from '../core/config/config.ts';
import { createLogger, type Logger, type LogLevel } from '../core/logging/logger.ts';
import { createProgress, type Progress } from '../core/progress/progress.ts';
import { createOutput, type Output } from './output.ts';

export interface Io {
  stdout: NodeJS.WriteStream;
  stderr: NodeJS.WriteStream;
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal;
}

export interface Context {
  /** Reads and checks the configuration, once; QZ201x when there is none or it is wrong. */
  config(): Promise<Config>;
  /** The file `config()` reads. */
  configFile: string;
  /** Whether the user named a configuration by flag or environment. */
  configNamed: boolean;
  logger: Logger;
  progress: Progress;
  /** Aborts at the first SIGINT or SIGTERM: finish what must be finished, then return. */
  signal: AbortSignal;
  json: boolean;
  out: Output;
  environment: NodeJS.ProcessEnv;
}

export interface VerbSpec<Options> {
  /** With its arguments, as commander writes them: `export <file>`. */
  usage: string;
  summary: string;
  /** Below the summary in `--help`. */
  about?: string;
  /** Command lines without `qazyna`, each with what it does. */
  examples: readonly (readonly [string, string])[];
  /** Daemons log from `info` on and have no `--json`. */
  daemon?: boolean;
  options?: (command: Command) => void;
  /** Resolves with the exit code (`exitCodes`); errors are thrown. */
  run(context: Context, options: Options, ...args: string[]): Promise<number>;
}

interface CommonOptions {
  config?: string;
  json?: boolean;
  logLevel?: LogLevel;
  logFormat?: 'text' | 'json';
}

export interface Frame {
  io: Io;
  /** Told the exit code of the verb that ran. */
  finish(exitCode: number): void;
}

export function addVerb<Options>(parent: Command, frame: Frame, spec: VerbSpec<Options>): Command {
  const command = parent.command(spec.usage).summary(spec.summary);
  command.description(spec.about === undefined ? spec.summary : `${spec.summary}\n\n${spec.about}`);
  spec.options?.(command);
  command.option('--config <file>', 'configuration (else $QAZYNA_CONFIG, else /etc/qazyna/config.yaml)');
  if (!spec.daemon) command.option('--json', 'one JSON object on stdout; progress and logs stay on stderr');
  command.addOption(
    new Option(
      '--log-level <level>',
      `how much is logged on stderr (default: ${spec.daemon ? 'info' : 'warn'})`,
    ).choices(['error', 'warn', 'info', 'debug']),
  );
  command.addOption(new Option('--log-format <format>', 'how logs look (default: text)').choices(['text', 'json']));
  command.addHelpText('after', helpTail(spec.examples));
  command.action(async (...given: unknown[]) => {
    const options = command.opts<CommonOptions & Options>();
    const args = given.slice(0, -2).filter((each): each is string => typeof each === 'string');
    const context = createContext(frame.io, options, spec.daemon === true);
    frame.finish(await spec.run(context, options, ...args));
  });
  return command;
}

function helpTail(examples: VerbSpec<unknown>['examples']): string {
  const lines = examples.flatMap(([line, what]) => [`  # ${what}`, `  qazyna ${line}`]);
  return `\n${examples.length === 1 ? 'Example' : 'Examples'}:\n${lines.join('\n')}`;
}

function createContext(io: Io, options: CommonOptions, daemon: boolean): Context {
  const json = options.json === true;
  const logger = createLogger({
    level: options.logLevel ?? (daemon ? 'info' : 'warn'),
    format: options.logFormat ?? 'text',
  });
  const progress = createProgress({ stream: io.stderr });
  // A log line must not be written behind a progress line that stands on the terminal.
  logger.prependListener('data', () => progress.clear());
  const configFile = configPath(options.config, io.environment);
  let config: Promise<Config> | null = null;
  return {
    config: () => {
      config ??= loadConfig(configFile);
      return config;
    },
    configFile,
    configNamed: options.config !== undefined || Boolean(io.environment.QAZYNA_CONFIG),
    logger,
    progress,
    signal: io.signal,
    json,
    out: createOutput(io.stdout, json),
    environment: io.environment,
  };
}

/** Option parser: a whole number within bounds. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= min && value <= max))
      throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
    return value;
  };
}
