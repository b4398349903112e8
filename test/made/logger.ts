/** A logger whose lines a test reads: what is said, with every fact that goes along, and nothing printed. */
import { createLogger, type Logger } from '../../core/logging/logger.ts';

export interface CollectingLogger {
  logger: Logger;
  /** One JSON object a line, oldest first. */
  lines: string[];
}

export function collectingLogger(): CollectingLogger {
  const logger = createLogger({ level: 'debug', format: 'json' });
  const lines: string[] = [];
  for (const transport of logger.transports) transport.silent = true;
  logger.on('data', (info: object) => lines.push(JSON.stringify(info)));
  return { logger, lines };
}
