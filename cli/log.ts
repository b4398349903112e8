/** From the configuration to the log that it names. */
import { join } from 'node:path';
import type { ChainState } from '../core/chain/types.ts';
import type { Config } from '../core/config/config.ts';
import type { QazynaError } from '../core/errors/error.ts';
import { LocalLog } from '../core/log/local/log.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';

export interface OpenLogOptions {
  config: Config;
  /** Where history stands in the archives, each time it is asked for: a topic that no longer begins at 0 is read on from there. */
  archived: () => readonly ChainState[];
  /** Whether a missing topic may be made. */
  creates: boolean;
  /** Told of brokers that cannot be reached, each time; null once they can. */
  onTrouble: (error: QazynaError | null) => void;
  logger: Logger;
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal;
}

export async function openLog({ config, logger }: OpenLogOptions): Promise<ChainLog> {
  const { log } = config;
  if (log.kind === 'local') return await LocalLog.open({ dir: log.dir, maxBytes: log.maxSizeBytes, logger });
  throw new Error('not yet');
}

/** Where the ids of the archives are remembered. */
export function knownArchivesFile(config: Config): string {
  return join(config.log.stateDir, 'archives.json');
}
