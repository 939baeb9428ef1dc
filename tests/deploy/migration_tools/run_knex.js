// knex.raw in a migration of knex's own: URL, name of the migration, then files.
const { readFileSync } = require("node:fs");
const knex = require("knex");

async function main([url, name, ...files]) {
  const database = knex({ client: "pg", connection: url });
  const migration = {
    async up(transaction) {
      for (const file of files) await transaction.raw(readFileSync(file, "utf8"));
    },
    async down() {},
  };
  const migrationSource = {
    getMigrations: async () => [name],
    getMigrationName: (migration) => migration,
    getMigration: async () => migration,
  };
  try {
    await database.migrate.latest({ migrationSource, disableMigrationsListValidation: true });
  } finally {
    await database.destroy();
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
