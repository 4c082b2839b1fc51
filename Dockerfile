# A static binary in an empty image, run by an unprivileged user. What to say to it is
# in configs/flashgate.yaml; every key can also be set by environment. Steps of this
# file are exercised by internal/testenv/image.sh, without an engine.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags=-s -o /out/flashgate .

FROM scratch
# To verify the certificates of Redis and of whoever else is spoken to with TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/flashgate /flashgate
USER 65532:65532
# Buyers, and operators where admin.listen says so: it is loopback unless it is set.
EXPOSE 8080 9090
# It reads the environment only: where admin.listen stands in a file, name that file here too.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["/flashgate", "health"]
ENTRYPOINT ["/flashgate"]
CMD ["serve"]
