/** A configuration for tests, and what is said of a wrong one. */
import { expect } from '@jest/globals';
import { parseConfig } from '../../core/config/config.ts';
import { QazynaError } from '../../core/errors/error.ts';

export const file = '/etc/qazyna/config.yaml';
export const good = `source:
  name: agama
  mysql: { host: db1, password_file: /etc/qazyna/mysql.password }
log:
  local: { dir: /var/lib/qazyna/log }
archives:
  onsite: { url: "file:///srv/qazyna" }
snapshots:
  scratch_dir: /var/lib/mysql-clone
`;

/** The archive is one that both hosts of a pair reach. */
export const shared = good.replace('qazyna" }', 'qazyna", failure_domain: other_host }');

export function problem(text: string): QazynaError {
  try {
    parseConfig(file, text);
  } catch (error) {
    if (error instanceof QazynaError) return error;
    throw error;
  }
  throw new Error('the configuration was accepted');
}

export function edited(from: string | RegExp, to: string): string {
  const text = good.replace(from, to);
  expect(text).not.toBe(good);
  return text;
}
