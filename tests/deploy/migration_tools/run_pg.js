// node-postgres, in one transaction: URL, then files.
const { readFileSync } = require("node:fs");
const { Client } = require("pg");

async function main([url, ...files]) {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await client.query("begin");
    for (const file of files) await client.query(readFileSync(file, "utf8"));
    await client.query("commit");
  } finally {
    await client.end();
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
