// Command bare is what flashgate is measured against: the least a Fiber server can do
// with the same request and an answer of the same fields. It stores nothing.
package main

import (
	"fmt"
	"os"

	"github.com/gofiber/fiber/v2"
)

type request struct {
	Quantity int64  `json:"quantity"`
	Coupon   string `json:"coupon"`
}

func main() {
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Post("/v1/skus/:sku/orders", func(c *fiber.Ctx) error {
		var in request
		if err := c.BodyParser(&in); err != nil {
			return c.SendStatus(fiber.StatusBadRequest)
		}
		c.Set("Location", "/v1/orders/ne4oqmjx2bq7xfxqhwqptnd3vm")
		return c.Status(fiber.StatusCreated).JSON(fiber.Map{
			"order_id": "ne4oqmjx2bq7xfxqhwqptnd3vm", "sku": c.Params("sku"), "user_id": c.Get("X-User-ID"),
			"quantity": in.Quantity, "unit_price": 4999, "amount": 4999 * in.Quantity, "currency": "EUR",
			"status": "reserved", "reserved_at": "2026-01-02T03:04:05.678Z", "pay_by": "2026-01-02T03:19:05.678Z",
		})
	})
	if err := app.Listen(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
