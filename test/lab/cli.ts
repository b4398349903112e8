/** `npm run lab -- up|status|down --dir DIR`: real servers on loopback, for tests, demo, bench and looking around. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { main } from '../../scripts/setup.ts';
import { Lab, labStatus, secretPath, stopLab } from './lab.ts';
import type { ServiceFacts } from './service.ts';

interface Flags {
  dir: string;
  json?: boolean;
  fresh?: boolean;
  stock?: boolean;
  kafka?: 0 | 1 | 3;
  s3?: boolean;
  influxdb?: boolean;
  faults?: boolean;
}

const attention = 5;

async function up(flags: Flags): Promise<number> {
  const { env, paths } = await ensureTools(['mysqld', 'mysql', 'mysqlbinlog', 'mysqldump']);
  process.env.PATH = env.PATH;
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort(new Error(signal)));
  const lab = await Lab.start({
    dir: flags.dir,
    fresh: flags.fresh ?? false,
    mysql: flags.stock ? { stock: true } : {},
    kafka: flags.kafka ?? 0,
    s3: flags.s3 === true,
    influxdb: flags.influxdb === true,
    faults: flags.faults === true,
    signal: stop.signal,
  });
  for (const handle of [lab.mysql.handle, lab.kafka, lab.s3, lab.influxdb]) handle?.release();
  const { port, socket, dataDir, version } = lab.mysql;
  const users = ['root', 'app', ...(flags.stock ? [] : ['qazyna'])];
  const accounts = users.map((user) => ({ user, passwordFile: secretPath(lab.dir, user) }));
  const facts = {
    dir: lab.dir,
    config: lab.configFile,
    mysql: { host: '127.0.0.1', port, socket, dataDir, version, accounts },
    kafka: lab.facts.kafka === undefined ? null : { brokers: String(lab.facts.kafka.brokers).split(',') },
    s3: lab.facts.s3 === undefined ? null : s3Facts(lab.facts.s3, lab.offsiteUrl),
    influxdb: lab.facts.influxdb === undefined ? null : { url: String(lab.facts.influxdb.url) },
    faults: lab.facts.faults === undefined ? null : { control: `http://127.0.0.1:${lab.facts.faults.port}` },
  };
  const { kafka, s3, influxdb, faults } = facts;
  const text = [
    `MySQL ${version} on 127.0.0.1:${port}, socket ${socket}`,
    ...accounts.map(({ user, passwordFile }) => `  ${user.padEnd(6)} password in ${passwordFile}`),
    `  ${paths.mysql} --socket=${socket} --user=root --password="$(cat ${secretPath(lab.dir, 'root')})"`,
    ...(kafka === null ? [] : [`Kafka brokers on ${kafka.brokers.join(', ')}`]),
    ...(s3 === null
      ? []
      : [`S3 server on ${s3.endpoint}, bucket ${s3.bucket}, keys in ${s3.credentials}`, `  --from "${s3.archive}"`]),
    ...(influxdb === null ? [] : [`InfluxDB on ${influxdb.url}`]),
    ...(faults === null
      ? []
      : [
          `Fault proxies before all of them, told what to do on ${faults.control}`,
          `  curl -d '{"service":"mysql","fault":{"kind":"blackhole"}}' ${faults.control}/fault`,
        ]),
    `Configuration ${lab.configFile}`,
    `  npx qazyna run --config ${lab.configFile}`,
    `Stop with: npm run lab -- down --dir ${lab.dir}`,
  ];
  print(flags, facts, text);
  return 0;
}

async function status(flags: Flags): Promise<number> {
  const services = await labStatus(flags.dir);
  const text = services.map(({ name, running, pids, stopped, facts }) => {
    if (running) return `${name} runs (pid ${pids.join(', ')}) on ${facts.host}:${facts.port}`;
    return pids.length > 0 ? `${name}: ${stopped.join(', ')} of it does not run` : `${name} does not run`;
  });
  print(flags, { services }, text.length > 0 ? text : ['nothing was started here']);
  return services.length > 0 && services.every(({ running }) => running) ? 0 : attention;
}

async function down(flags: Flags): Promise<number> {
  const stopped = await stopLab(flags.dir);
  print(flags, { stopped }, stopped.length > 0 ? stopped : ['nothing was running']);
  return 0;
}

function s3Facts({ endpoint, bucket, credentials }: ServiceFacts, archive: string) {
  return { endpoint: String(endpoint), bucket: String(bucket), credentials: String(credentials), archive };
}

function brokerCount(text: string): 0 | 1 | 3 {
  const count = Number(text);
  if (count === 0 || count === 1 || count === 3) return count;
  throw new InvalidArgumentError('It must be 0, 1 or 3.');
}

function print(flags: Flags, facts: object, text: string[]): void {
  process.stdout.write(flags.json ? `${JSON.stringify(facts)}\n` : `${text.join('\n')}\n`);
}

const program = new Command('lab').description('Real servers on loopback, all state below one folder.');
const verbs = [
  { name: 'up', about: 'start what is not running', run: up },
  { name: 'status', about: 'what runs; exit 5 when something does not', run: status },
  { name: 'down', about: 'stop exactly what was started here', run: down },
];
for (const { name, about, run } of verbs) {
  const command = program.command(name).description(about).requiredOption('--dir <dir>', 'folder of the lab');
  command.option('--json', 'one JSON object on stdout');
  if (name === 'up') {
    command.option('--fresh', 'stop and remove what is there first');
    command.option('--stock', 'the server’s own settings, no account qazyna');
    command.addOption(
      new Option('--kafka <brokers>', 'a Kafka log of 1 or 3 brokers in place of local files').argParser(brokerCount),
    );
    command.option('--s3', 'the archive offsite in an S3 server in place of a folder');
    command.option('--influxdb', 'an InfluxDB 1.8 beside MySQL, protected as well');
    command.option('--faults', 'a fault proxy before each server');
  }
  command.action((flags: Flags) => main(() => run(flags)));
}

await program.parseAsync();
