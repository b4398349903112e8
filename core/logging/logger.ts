/** One logger for every program: winston, always on stderr, so that stdout stays for results (`--json`). */
import winston from 'winston';

export type Logger = winston.Logger;
export type LogLevel = 'error' | 'warn' | 'info' | 'debug';

/** `text` for people and the journal, `json` (one object per line) for collectors. */
export function createLogger(options: { level?: LogLevel; format?: 'text' | 'json' } = {}): Logger {
  const { combine, timestamp, printf, json, errors } = winston.format;
  const text = printf((line) => {
    const { timestamp: at, level, message, component, stack: _stack, ...rest } = line;
    const facts = Object.entries(rest)
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => `${key}=${typeof value === 'object' ? JSON.stringify(value) : String(value)}`);
    return [at, level.padEnd(5), component ?? '-', message, ...facts].join(' ');
  });
  return winston.createLogger({
    level: options.level ?? 'info',
    format: combine(errors({ stack: true }), timestamp(), options.format === 'json' ? json() : text),
    transports: [new winston.transports.Stream({ stream: process.stderr })],
  });
}

/** A logger that prints nothing, for library use and tests. */
export function silentLogger(): Logger {
  return winston.createLogger({
    silent: true,
    transports: [new winston.transports.Stream({ stream: process.stderr })],
  });
}
