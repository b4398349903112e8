/** The section `standby` of the configuration. */
import { z } from 'zod';
import { absolutePath, durationMs, flag, key, listen, mapping, oneOf, text } from './keys.ts';

/** A program with its arguments; no shell in between. */
function command() {
  const error = 'a list of a program and its arguments such as ["/etc/qazyna/hooks/bind9"]';
  return z.array(z.string({ error }).min(1, { error }), { error }).min(1, { error }).max(64, { error });
}

function commands() {
  const error = 'a list of commands, each a list of a program and its arguments';
  return z.array(command(), { error }).max(32, { error });
}

/** By these it would be another server than the one that is promised, whatever stands before their name. */
const ownOptions =
  /^(loose-|skip-|disable-|enable-)*(server-(id|uuid)|datadir|socket|port|bind-address|pid-file|log-bin|log-(replica|slave)-updates|gtid-mode|enforce-gtid-consistency|binlog-format|(super-)?read-only|(replica|slave)-start|relay-log-recovery|rpl-semi-sync-.*)$/;

function serverOptions() {
  const error = 'a mapping of server options to values such as { innodb-buffer-pool-size: 8G }';
  const own = 'left out: qazyna sets it itself (its server_id is one that the history does not hold)';
  const name = z
    .string({ error })
    .regex(/^[a-z][a-z0-9_-]{1,63}$/, { error })
    .refine((text) => !ownOptions.test(text.replaceAll('_', '-')), { error: own });
  return z.record(name, z.union([z.string(), z.number(), z.boolean()], { error }), { error });
}

const failover = mapping({
  automatic: key(
    flag().default(false),
    'true: take over by itself when the primary is gone and nothing can be lost by it (acknowledge_after was in force), or the fence command has succeeded.',
    'false',
  ),
  after: key(
    durationMs(500).prefault('2s'),
    'How long the primary must be gone, by its heartbeats in the log and by our own look at it.',
    '2s',
  ),
  drain_deadline: key(
    durationMs(1000).prefault('30s'),
    'Take over by itself only when this server will have executed everything within this time.',
    '30s',
  ),
  not_again_within: key(
    durationMs(0).prefault('1h'),
    'Take over by itself no second time within this: what fails back and forth needs a person.',
    '1h',
  ),
  fence: key(
    command().optional(),
    'Makes sure that the old primary is off (STONITH): exit code 0 means that it is. Asked where acknowledge_after cannot vouch for it.',
    '["/etc/qazyna/fence"]',
  ).meta({ seldom: true }),
  hooks: key(
    commands().default([]),
    'Run one after the other once this server is the primary: DNS, proxies (see ops/hooks).',
    '[["/usr/share/qazyna/hooks/bind9"]]',
  ).meta({ seldom: true }),
});

export const standby = mapping({
  dir: key(
    absolutePath(),
    'Folder of the standby: the data folder of its server (`data`), its option file and socket, and what qazyna knows of it. It is filled from a snapshot.',
    '/var/lib/qazyna/standby',
  ),
  bind: key(
    listen().default('127.0.0.1:3306'),
    'Where the standby’s server listens for applications, from the first moment on: read-only until it is the primary.',
    '0.0.0.0:3306',
  ),
  advertise: key(
    listen().optional(),
    'Where applications reach that server: what hooks are told to point at. The same as bind when left out.',
    '192.0.2.2:3306',
  ).meta({ seldom: true }),
  run_by: key(
    oneOf(['qazyna', 'systemd']).default('qazyna'),
    'Who runs that server: qazyna, as a process of its own that outlives it; or systemd, as the service qazyna-mysqld (ops/systemd), which also stops it safely with the host. Needed where qazyna itself is a service.',
    'systemd',
  ),
  mysqld: key(absolutePath().optional(), 'The server program; the one on PATH when left out.', '/usr/sbin/mysqld').meta(
    {
      seldom: true,
    },
  ),
  user: key(
    text('the name of an account of this host', /^[a-z_][a-z0-9_-]{0,31}$/).optional(),
    'Account that the server runs as; mysql when there is one.',
    'mysql',
  ).meta({ seldom: true }),
  server_options: key(
    serverOptions().default({}),
    'What the server is started with beyond what it must have: sizes, mostly.',
    '{ innodb-buffer-pool-size: 8G }',
  ).meta({ seldom: true }),
  archive: key(
    text('the name of an archive', /^[a-z][a-z0-9_-]{0,31}$/).optional(),
    'Archive that it is filled from, and that gives what the log no longer holds; the one that commits wait for, else the first one, when left out. With a local log and acknowledge_after: none it is also the one that it follows, and that says which server is the source.',
    'offsite',
  ),
  listen: key(
    listen().default('127.0.0.1:3310'),
    'Where the stream server answers: to its own server, and to any other stock replica.',
    '127.0.0.1:3310',
  ),
  replica_user: key(
    text('an account name of 1 to 32 characters', /^[^\0]{1,32}$/).default('qazyna_replica'),
    'Account by which other replicas log in to the stream server.',
    'qazyna_replica',
  ).meta({ seldom: true }),
  replica_password_file: key(
    absolutePath().optional(),
    'File with its password (mode 0600), or a systemd credential of the same file name. Left out: only our own server gets in.',
    '/etc/qazyna/replica.password',
  ).meta({ seldom: true }),
  failover: key(failover.prefault({}), 'When it takes over.'),
});
