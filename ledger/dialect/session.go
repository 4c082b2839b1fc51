package dialect

import "strings"

// What a server's configuration, its init_connect or the DSN may have set, and what bends a
// statement: a limit on rows or on time, read-only transactions, a COMMIT that begins the next
// one or ends the connection, a time zone, checks that are off. Every connection sets all of
// it, whatever it is for; sessionSetup sets what else the sale needs.

// sessionSettings are a setting each: its name, the value that it is given, and the condition
// that it has it.
const sessionSettings = `sql_select_limit=18446744073709551615
sql_big_selects=1
sql_safe_updates=0
sql_auto_is_null=0
completion_type=0
time_zone='+00:00'
unique_checks=1
foreign_key_checks=1
M max_statement_time=0
8 max_execution_time=0`

// plainSession sets them, behind a set-up of another purpose.
func plainSession() string {
	return "; SET SESSION TRANSACTION READ WRITE; SET SESSION " + eachSetting(",", func(s string) string { return s })
}

// BentSession is an expression for the names of those that have another value, "" where
// there are none.
func BentSession() string {
	named := func(s string) string {
		name, value, _ := strings.Cut(s, "=")
		if name == "completion_type" {
			value = "'NO_CHAIN'"
		}
		return "IF(@@SESSION." + name + "=" + value + ",NULL,'" + name + "')"
	}
	return "CONCAT_WS(', '," + eachSetting(",", named) +
		"/*M!,IF(@@SESSION.tx_read_only=0,NULL,'tx_read_only'),IF(@@SESSION.tx_isolation='READ-COMMITTED',NULL,'tx_isolation')*/" +
		"/*!80000,IF(@@SESSION.transaction_read_only=0,NULL,'transaction_read_only'),IF(@@SESSION.transaction_isolation='READ-COMMITTED',NULL,'transaction_isolation')*/" +
		",IF(@@SESSION.autocommit=1,NULL,'autocommit'))"
}

// eachSetting joins what fn makes of each setting. MariaDB reads comments with M, and MySQL
// those with a version that MariaDB knows to be none of its own.
func eachSetting(join string, fn func(string) string) string {
	var b strings.Builder
	for line := range strings.Lines(sessionSettings) {
		line = strings.TrimSpace(line)
		open, shut := "", ""
		switch {
		case strings.HasPrefix(line, "M "):
			line, open, shut = line[2:], "/*M!", "*/"
		case strings.HasPrefix(line, "8 "):
			line, open, shut = line[2:], "/*!80000", "*/"
		}
		b.WriteString(open)
		if b.Len() > len(open) {
			b.WriteString(join)
		}
		b.WriteString(fn(line) + shut)
	}
	return b.String()
}
