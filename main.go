// Command flashgate is a flash-sale gateway: it decides, per SKU and at the speed of
// memory, who gets the stock, and never says yes before the ledger has committed it.
package main

import (
	"os"

	"flashgate/internal/app"
)

func main() { os.Exit(app.Main()) }
