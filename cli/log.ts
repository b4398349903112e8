/** From the configuration to the log that it names. */
import { mkdir, readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { errorCode } from '../core/archive/store-error.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { Config, KafkaLogConfig, LocalLogConfig } from '../core/config/config.ts';
import { readSecret, secretPlace } from '../core/config/secrets.ts';
import { configurationError, isKind, type QazynaError, transientError } from '../core/errors/error.ts';
import { retrying } from '../core/errors/retry.ts';
import type { KafkaLogOptions } from '../core/log/kafka/log.ts';
import type { LocalLog } from '../core/log/local/log.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';

export interface OpenLogOptions {
  config: Config;
  /** Where history stands in the archives, each time it is asked for: a topic that no longer begins at 0 is read on from there. */
  archived: () => readonly ChainState[];
  /** Of the process, for `stateFolder`. */
  role: string;
  /** Whether a missing topic may be made. */
  creates: boolean;
  /** How long brokers that cannot be reached are waited for. */
  patienceMs: number;
  /** Told of brokers that cannot be reached, each time; null once they can. */
  onTrouble: (error: QazynaError | null) => void;
  logger: Logger;
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal;
}

/** Throws QZ230x (local), QZ231x and QZ3320 (Kafka), and QZ431x when brokers stay away longer than `patienceMs`. */
export async function openLog(options: OpenLogOptions): Promise<ChainLog> {
  const { config, logger, signal, onTrouble } = options;
  const { log } = config;
  // Only the one that is asked for is loaded: a client of Kafka takes a tenth of a second and some MB.
  if (log.kind === 'local') return await openLocalLog(log, logger);
  const { KafkaLog } = await import('../core/log/kafka/log.ts');
  const place = await kafkaOptions(log, options);
  const open = async () => await KafkaLog.open(place).catch((error: unknown) => notYet(error, options));
  const opened = await retrying(`opening the topic ${log.topic}`, open, {
    signal,
    logger,
    deadlineMs: options.patienceMs,
    onFailure: (error) => isKind(error, 'transient') && onTrouble(error),
  });
  onTrouble(null);
  return opened;
}

export async function openLocalLog({ dir, maxSizeBytes }: LocalLogConfig, logger: Logger): Promise<LocalLog> {
  const { LocalLog } = await import('../core/log/local/log.ts');
  return await LocalLog.open({ dir, maxBytes: maxSizeBytes, logger });
}

/** A daemon that is started before the agent's first start waits for the topic that the agent makes. */
function notYet(error: unknown, { creates, patienceMs }: OpenLogOptions): never {
  const waits = !creates && patienceMs === Number.POSITIVE_INFINITY;
  if (!waits || !isKind(error, 'configuration') || error.code !== 'QZ2310') throw error;
  throw transientError('QZ4318', error.message, 'It is looked for again; start the agent, which makes it.', {
    cause: error,
  });
}

/**
 * The folder of the small files by which a process recognizes log and archives again. With a Kafka log several processes may
 * run on one host: `role` gives each its own.
 */
export function stateFolder({ log }: Config, role: string): string {
  return log.kind === 'local' ? log.stateDir : join(log.stateDir, role);
}

async function kafkaOptions(log: KafkaLogConfig, options: OpenLogOptions): Promise<KafkaLogOptions> {
  const { config, logger, signal, environment, archived } = options;
  const { brokers, topic, replicationFactor, retentionMs } = log;
  const stateDir = stateFolder(config, options.role);
  await mkdir(stateDir, { recursive: true, mode: 0o750 }).catch((error: unknown) => {
    throw configurationError(
      'QZ2034',
      `The folder ${stateDir} below log.kafka.state_dir cannot be made: ${errorCode(error)}.`,
      'Make it, for the account that this runs as; the systemd unit does so by StateDirectory=.',
      { cause: error },
    );
  });
  const { tls, sasl } = await kafkaSecrets(log, logger, environment);
  return {
    brokers,
    topic,
    replicationFactor,
    retentionMs,
    clientId: `qazyna-${config.source.name}-${hostname()}`,
    tls,
    sasl,
    acknowledges: config.source.acknowledgeAfter === 'log',
    // The brokers' retention bounds it, not a size of ours.
    maxBytes: 0,
    states: () => Promise.resolve(archived()),
    stateFile: join(stateDir, `${topic}.json`),
    create: options.creates,
    logger,
    signal,
  };
}

async function kafkaSecrets(
  { tls, sasl }: KafkaLogConfig,
  logger: Logger,
  environment: NodeJS.ProcessEnv,
): Promise<Required<Pick<KafkaLogOptions, 'tls' | 'sasl'>>> {
  const pem: { ca?: string; cert?: string; key?: string } = {};
  if (tls?.caFile !== undefined) pem.ca = await readPem(tls.caFile, environment);
  if (tls?.certFile !== undefined) pem.cert = await readPem(tls.certFile, environment);
  if (tls?.keyFile !== undefined) pem.key = await readPem(tls.keyFile, environment);
  if (sasl === null) return { tls: tls === null ? null : pem, sasl: null };
  const { mechanism, user, passwordFile } = sasl;
  const password = await readSecret(passwordFile, { warn: (sentence) => logger.warn(sentence), environment });
  return { tls: tls === null ? null : pem, sasl: { mechanism, user, password } };
}

async function readPem(file: string, environment: NodeJS.ProcessEnv): Promise<string> {
  try {
    return await readFile(await secretPlace(file, environment), 'utf8');
  } catch (error) {
    throw configurationError(
      'QZ2035',
      `The file ${file}, named in log.kafka.tls, cannot be read: ${errorCode(error)}.`,
      'Check the path and that this account may read it; under systemd give it with LoadCredential=.',
      { cause: error },
    );
  }
}
