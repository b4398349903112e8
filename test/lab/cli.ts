/** `npm run lab -- up|status|down --dir DIR`: real servers on loopback, for tests, demo, bench and looking around. */
import { Command } from 'commander';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { main } from '../../scripts/setup.ts';
import { Lab, labStatus, secretPath, stopLab } from './lab.ts';

interface Flags {
  dir: string;
  json?: boolean;
  fresh?: boolean;
  stock?: boolean;
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
    signal: stop.signal,
  });
  lab.mysql.handle?.release();
  const { port, socket, dataDir, version } = lab.mysql;
  const users = ['root', 'app', ...(flags.stock ? [] : ['qazyna'])];
  const accounts = users.map((user) => ({ user, passwordFile: secretPath(lab.dir, user) }));
  const facts = {
    dir: lab.dir,
    config: lab.configFile,
    mysql: { host: '127.0.0.1', port, socket, dataDir, version, accounts },
  };
  const text = [
    `MySQL ${version} on 127.0.0.1:${port}, socket ${socket}`,
    ...accounts.map(({ user, passwordFile }) => `  ${user.padEnd(6)} password in ${passwordFile}`),
    `  ${paths.mysql} --socket=${socket} --user=root --password="$(cat ${secretPath(lab.dir, 'root')})"`,
    `Configuration ${lab.configFile}`,
    `  npx qazyna run --config ${lab.configFile}`,
    `Stop with: npm run lab -- down --dir ${lab.dir}`,
  ];
  print(flags, facts, text);
  return 0;
}

async function status(flags: Flags): Promise<number> {
  const services = await labStatus(flags.dir);
  const text = services.map(({ name, running, pids, facts }) =>
    running ? `${name} runs (pid ${pids.join(', ')}) on ${facts.host}:${facts.port}` : `${name} does not run`,
  );
  print(flags, { services }, text.length > 0 ? text : ['nothing was started here']);
  return services.length > 0 && services.every(({ running }) => running) ? 0 : attention;
}

async function down(flags: Flags): Promise<number> {
  const stopped = await stopLab(flags.dir);
  print(flags, { stopped }, stopped.length > 0 ? stopped : ['nothing was running']);
  return 0;
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
  }
  command.action((flags: Flags) => main(() => run(flags)));
}

await program.parseAsync();
