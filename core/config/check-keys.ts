/** The sections `verify` and `drill` of the configuration: whether what is kept can be trusted, looked at by itself. */
import { z } from 'zod';
import { absolutePath, key, mapping, sizeBytes, text } from './keys.ts';
import { parseDurationMs } from './quantities.ts';

/** A duration, or never: null. */
function everyOrNever(minMs: number) {
  const expected = `a duration with its unit such as 1d, at least ${minMs / 1000}s, or never`;
  return z.string({ error: expected }).transform((value, context) => {
    if (value === 'never') return null;
    const ms = parseDurationMs(value);
    if (ms !== null && ms >= minMs) return ms;
    context.addIssue({ code: 'custom', message: expected });
    return z.NEVER;
  });
}

function assertions() {
  const error = 'a list of SELECT statements such as ["SELECT COUNT(*) > 0 FROM shop.item"]';
  const statement = z
    .string({ error })
    .max(4096, { error })
    .regex(/^\s*(SELECT|WITH|TABLE|VALUES)\b/i, { error });
  return z.array(statement, { error }).max(100, { error }).default([]);
}

export const verify = mapping({
  every: key(
    everyOrNever(1000).prefault('1d'),
    'Beside the shipper, by itself: read what is new in each archive since the last time, and look whether the rest is there.',
    '1d',
  ),
  full_every: key(everyOrNever(1000).prefault('30d'), 'The same for all of it: every byte is read again.', '30d'),
  max_rate: key(
    sizeBytes(64 * 1024).optional(),
    'Read at most so much in a second. As fast as it goes when left out, at low priority.',
    '32MiB',
  ).meta({ seldom: true }),
});

export const drill = mapping({
  every: key(
    everyOrNever(1000).prefault('never'),
    'Restore an instant for real into a scratch server, by itself, and look whether it is what the source was. Runs beside the shipper, where a mysqld of the source’s version is.',
    '7d',
  ),
  dir: key(
    absolutePath().optional(),
    'Folder for the scratch server, with room for all of the data. Whatever is in its subfolder `drill` is removed.',
    '/var/lib/qazyna/scratch',
  ),
  archive: key(
    text('the name of an archive', /^[a-z][a-z0-9_-]{0,31}$/).optional(),
    'Archive to restore from; the first one when left out.',
    'offsite',
  ).meta({ seldom: true }),
  mysqld: key(absolutePath().optional(), 'The server program; the one on PATH when left out.', '/usr/sbin/mysqld').meta(
    {
      seldom: true,
    },
  ),
  assertions: key(
    assertions(),
    'Statements whose one answer must be neither 0, NULL nor empty in the restored server.',
    '["SELECT COUNT(*) > 0 FROM shop.item"]',
  ),
  rows_every: key(
    everyOrNever(1000).prefault('never'),
    'The agent counts up the rows of small tables on the source this often (CHECKSUM TABLE in one consistent snapshot), so that a drill can compare them.',
    '1d',
  ).meta({ seldom: true }),
  rows_max_table: key(
    sizeBytes(1024 * 1024).prefault('64MiB'),
    'Tables larger than this are left out of that.',
    '64MiB',
  ).meta({ seldom: true }),
});
